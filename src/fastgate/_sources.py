"""The class methods from_* of LSTM and LSTMCell, which the compiled core and the reference share.

Each takes the weights from the function of the same name in fastgate.weights, which is imported only when needed.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    _Made = TypeVar("_Made")


class CellSources:
    """The class methods of LSTMCell."""

    __slots__ = ()

    @classmethod
    def from_torch(
        cls: Callable[..., _Made], source: Any, *, prefix: str = "", storage: str = "float32", threads: int | str = 1
    ) -> _Made:
        """Make a cell with the weights of a torch.nn.LSTMCell.

        source (a module or a state_dict) and prefix are as in fastgate.weights.from_torch; storage and threads are as
        in LSTMCell. Raises what these raise, and ValueError if there is more than one layer or direction.
        """
        from fastgate import _parameters, weights

        layers, _ = weights.from_torch(source, prefix=prefix)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)

    @classmethod
    def from_flax(
        cls: Callable[..., _Made],
        source: Any,
        cell: str | None = None,
        *,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make a cell with the weights of a Flax LSTMCell.

        source (a mapping of parameters) and cell (the path of the cell in it) are as in fastgate.weights.from_flax;
        storage and threads are as in LSTMCell. Raises what these raise.
        """
        from fastgate import _parameters, weights

        layers, _ = weights.from_flax(source, cell)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)


class LSTMSources:
    """The class methods of LSTM."""

    __slots__ = ()

    @classmethod
    def from_torch(
        cls: Callable[..., _Made],
        source: Any,
        *,
        prefix: str = "",
        batch_first: bool | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make an LSTM with the weights of a torch.nn.LSTM.

        source (a module or a state_dict), prefix and batch_first are as in fastgate.weights.from_torch; storage and
        threads are as in LSTM. Raises what these raise.
        """
        from fastgate import weights

        layers, options = weights.from_torch(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_paddle(
        cls: Callable[..., _Made],
        source: Any,
        *,
        prefix: str = "",
        batch_first: bool | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make an LSTM with the weights of a paddle.nn.LSTM.

        source (a layer or a state_dict), prefix and batch_first are as in fastgate.weights.from_paddle; storage and
        threads are as in LSTM. Raises what these raise.
        """
        from fastgate import weights

        layers, options = weights.from_paddle(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_flax(
        cls: Callable[..., _Made],
        source: Any,
        cells: str | Sequence[str | tuple[str, str]] | None = None,
        *,
        batch_first: bool = True,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make an LSTM with the weights of one or several Flax LSTM cells.

        source (a mapping of parameters), cells (their paths in it) and batch_first are as in
        fastgate.weights.from_flax; storage and threads are as in LSTM. Raises what these raise.
        """
        from fastgate import weights

        layers, options = weights.from_flax(source, cells, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_keras(
        cls: Callable[..., _Made],
        source: Any,
        *,
        prefix: str = "",
        bidirectional: bool | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make an LSTM with the weights of a Keras LSTM layer.

        source (a layer, a file or weights), prefix and bidirectional are as in fastgate.weights.from_keras; storage and
        threads are as in LSTM. Raises what these raise.
        """
        from fastgate import weights

        layers, options = weights.from_keras(source, prefix=prefix, bidirectional=bidirectional)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_onnx(
        cls: Callable[..., _Made],
        source: Any,
        node: str | Sequence[str] | None = None,
        *,
        weights: Mapping[str, Any] | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> _Made:
        """Make an LSTM with the weights of an LSTM node of an ONNX model, or of several nodes, which are its layers.

        source (the model or its path), node and weights are as in fastgate.weights.from_onnx; storage and threads are
        as in LSTM. Raises what these raise.
        """
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)
