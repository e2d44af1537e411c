"""The class methods that make an LSTM or an LSTMCell from one of elsewhere, for the compiled core and the reference.

Each passes on what the function of its name in fastgate.weights gives, which is imported when it is needed.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    _Made = TypeVar("_Made")


class CellSources:
    """Those of LSTMCell."""

    __slots__ = ()

    @classmethod
    def from_torch(
        cls: Callable[..., _Made], source: Any, *, prefix: str = "", storage: str = "float32", threads: int | str = 1
    ) -> _Made:
        """A cell with the weights of a torch.nn.LSTMCell, or its state_dict; see fastgate.weights.

        Raises
        ------
        ValueError
            If keys are missing or unknown, or are of more than one layer or direction.
        TypeError
            If source is neither such a module nor a mapping.
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
        """A cell with the weights of an LSTMCell of Flax; see fastgate.weights.

        Raises what fastgate.weights.from_flax and the class raise.
        """
        from fastgate import _parameters, weights

        layers, _ = weights.from_flax(source, cell)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)


class LSTMSources:
    """Those of LSTM."""

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
        """An LSTM with the weights of a torch.nn.LSTM, or of its state_dict; see fastgate.weights.

        batch_first is that of the module, where it is not given; a state_dict does not tell. Raises what
        fastgate.weights.from_torch and the class raise.
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
        """An LSTM with the weights of a paddle.nn.LSTM, or of its state_dict; see fastgate.weights.

        batch_first is that of the layer, where it is not given, and True of a state_dict, which does not tell. Raises
        what fastgate.weights.from_paddle and the class raise.
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
        """An LSTM with the weights of one or several LSTM cells of Flax; see fastgate.weights.

        Raises what fastgate.weights.from_flax and the class raise.
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
        """An LSTM with the weights of one of Keras; see fastgate.weights.

        Raises what fastgate.weights.from_keras and the class raise.
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
        """An LSTM with the weights of a node of an ONNX model, or of several, its layers; see fastgate.weights.

        Raises what fastgate.weights.from_onnx and the class raise.
        """
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)
