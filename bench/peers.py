"""Other libraries, set up as each of them is fastest.

What lost, in the comments, was measured on a Xeon with AVX-512 (Emerald Rapids), one core.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from figures import Array


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))  # set for every side by Sides


@functools.cache
def torch_mode() -> Any:
    import torch

    torch.set_num_threads(threads())
    mode = torch.inference_mode()  # 0.2 to 0.4 µs a call below no_grad
    mode.__enter__()  # for as long as this process
    return mode


def onnx_binding(
    text: str, weights: dict[str, Array], inputs: dict[str, Array], outputs: dict[str, Array]
) -> dict[str, Any]:
    """A graph bound to arrays that it reads and writes: names for the statement run(binding).

    Bound input and output save 4 µs a call. Arena and memory plan: no difference.
    """
    import onnxruntime as ort
    from onnx import helper, numpy_helper, parser

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads(), 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    spinning = "1" if threads() > 1 else "0"  # without, the second thread costs more than it gives
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    sides = [
        ", ".join(f"float{list(a.shape)} {name}" for name, a in arrays.items())
        for arrays in (inputs, outputs)
    ]
    graph = parser.parse_graph(f"graph ({sides[0]}) => ({sides[1]}) {{{text}}}")
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    cpu = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=cpu)
    binding, keep = session.io_binding(), []
    for bind, arrays in (
        (binding.bind_ortvalue_input, inputs),
        (binding.bind_ortvalue_output, outputs),
    ):
        for name, array in arrays.items():
            keep.append(ort.OrtValue.ortvalue_from_numpy(array))  # shares memory
            bind(name, keep[-1])
    return {"run": session.run_with_iobinding, "binding": binding, "keep": (keep, inputs, outputs)}


def openvino_infer(
    results: list[Any], inputs: list[tuple[Any, Array]], outputs: list[Array]
) -> dict[str, Any]:
    """A model of (parameter, array) pairs, set to read and write arrays: names for infer().

    Tensors set once, infer() without arguments: half the time of calling the compiled model,
    start_async() and wait() cost 8 µs more. The f32 hint keeps it from computing in bfloat16
    where the CPU can.
    """
    import openvino as ov
    import openvino.properties as props
    from openvino.properties import hint

    options = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): ov.Type.f32,
        hint.execution_mode(): hint.ExecutionMode.ACCURACY,
        hint.enable_cpu_pinning(): False,
        props.inference_num_threads(): threads(),
    }
    model = ov.Model(results, [parameter for parameter, _ in inputs])
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    for i, (_, array) in enumerate(inputs):
        request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
    for i, array in enumerate(outputs):
        request.set_output_tensor(i, ov.Tensor(array, shared_memory=True))
    return {"infer": request.infer, "keep": (inputs, outputs)}


def nans(*shape: int, dtype: Any = np.float32) -> Array:
    return np.full(shape, np.nan, dtype)  # a call that writes nothing fails the check
