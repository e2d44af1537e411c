"""The weights of LSTMs made elsewhere: torch, Paddle, Keras, Flax, ONNX.

Each function named ``from_...`` gives (layers, options): an LSTM of the layers, with the options as keywords, computes
what its source does.  No framework is ever imported, since its objects are known by their form; onnx and h5py are
imported where a model or a file has to be read.
"""

from fastgate.weights.flax import from_flax
from fastgate.weights.keras import from_keras
from fastgate.weights.onnx import from_onnx, onnx_state
from fastgate.weights.torch import from_paddle, from_torch

__all__ = ["from_flax", "from_keras", "from_onnx", "from_paddle", "from_torch", "onnx_state"]
