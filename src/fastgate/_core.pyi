from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import IO, Any, TypeVar, final, overload

from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer, disjoint_base

from fastgate._sources import CellSources, LSTMSources

_Out = TypeVar("_Out")
_OtherOut = TypeVar("_OtherOut")

@final
class Gate:
    def __new__(
        cls,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> Gate: ...
    @classmethod
    def from_augmented(
        cls, weight: ArrayLike, *, storage: str = "float32", threads: int | str = 1
    ) -> Gate: ...
    def save(self, file: str | PathLike[str] | IO[bytes]) -> None: ...
    @classmethod
    def load(cls, source: str | PathLike[str] | Buffer) -> Gate: ...
    @overload
    def __call__(self, *parts: ArrayLike, out: None = None) -> NDArray[Any]: ...
    @overload
    def __call__(self, *parts: ArrayLike, out: _Out) -> _Out: ...
    def bind(self, *parts: Any, out: Any) -> BoundGate: ...
    @property
    def input_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...
    @property
    def storage(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def __reduce__(
        self,
    ) -> tuple[Callable[..., Gate], tuple[str, tuple[NDArray[Any], NDArray[Any]], dict[str, Any]]]: ...
    def __copy__(self) -> Gate: ...
    def __deepcopy__(self, memo: dict[int, Any]) -> Gate: ...

@final
class BoundGate:
    def __new__(cls, gate: Gate, parts: tuple[Any, ...], out: Any) -> BoundGate: ...
    def __call__(self) -> Any: ...

@disjoint_base
class _Recurrent:
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def storage(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def save(self, file: str | PathLike[str] | IO[bytes]) -> None: ...
    def __copy__(self) -> Any: ...
    def __deepcopy__(self, memo: dict[int, Any]) -> Any: ...

@final
class LSTMCell(_Recurrent, CellSources):  # it has the methods of CellSources, without inheriting them
    def __new__(
        cls,
        weight_ih: ArrayLike,
        weight_hh: ArrayLike,
        bias_ih: ArrayLike | None = None,
        bias_hh: ArrayLike | None = None,
        *,
        peephole: ArrayLike | None = None,
        projection: ArrayLike | None = None,
        clip: float | None = None,
        gate_clip: float | None = None,
        input_forget: bool = False,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTMCell: ...
    @classmethod
    def load(cls, source: str | PathLike[str] | Buffer) -> LSTMCell: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        h: ArrayLike | None = None,
        c: ArrayLike | None = None,
        *,
        out: None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        h: ArrayLike | None = None,
        c: ArrayLike | None = None,
        *,
        out: tuple[_Out, _OtherOut],
    ) -> tuple[_Out, _OtherOut]: ...
    def stream(self, batch: int | None = None) -> Stream: ...
    @property
    def output_size(self) -> int: ...
    def __reduce__(
        self,
    ) -> tuple[Callable[..., Any], tuple[str, tuple[Any, ...], dict[str, Any]]]: ...

@final
class LSTM(_Recurrent, LSTMSources):
    def __new__(
        cls,
        layers: Sequence[Mapping[str, Any] | Sequence[Mapping[str, Any]]],
        *,
        batch_first: bool = False,
        reverse: bool = False,
        clip: float | None = None,
        gate_clip: float | None = None,
        input_forget: bool = False,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM: ...
    @classmethod
    def load(
        cls, source: str | PathLike[str] | Buffer, *, batch_first: bool | None = None
    ) -> LSTM: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        out: None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        out: _Out,
    ) -> tuple[_Out, tuple[NDArray[Any], NDArray[Any]]]: ...
    def gates(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        lengths: ArrayLike | None = None,
        layer: int = -1,
        direction: int = 0,
    ) -> dict[str, NDArray[Any]]: ...
    def stream(self, batch: int | None = None) -> Stream: ...
    @property
    def output_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def bidirectional(self) -> bool: ...
    @property
    def batch_first(self) -> bool: ...
    @property
    def reverse(self) -> bool: ...
    def __reduce__(
        self,
    ) -> tuple[Callable[..., Any], tuple[str, tuple[Any, ...], dict[str, Any]]]: ...

@final
class Stream:
    def __new__(cls, source: _Recurrent, batch: int | None = None) -> Stream: ...
    @overload
    def step(self, x: ArrayLike, out: None = None, *, rows: ArrayLike | slice | None = None) -> NDArray[Any]: ...
    @overload
    def step(self, x: ArrayLike, out: _Out, *, rows: ArrayLike | slice | None = None) -> _Out: ...
    @property
    def state(self) -> tuple[NDArray[Any], NDArray[Any]]: ...
    @state.setter
    def state(self, state: tuple[ArrayLike, ArrayLike]) -> None: ...
    def resize(self, batch: int) -> None: ...
    def reset(self, rows: ArrayLike | slice | None = None) -> None: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def source(self) -> Any: ...
    def __reduce__(self) -> tuple[Callable[..., Stream], tuple[Any, ...]]: ...

@overload
def gate(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, out: None = None
) -> NDArray[Any]: ...
@overload
def gate(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, out: _Out) -> _Out: ...
def build_info() -> tuple[str, str]: ...
def instruction_sets() -> dict[str, bool]: ...
def instruction_set() -> str: ...
def override_threads(threads: int) -> None: ...
def select_instruction_set(name: str) -> None: ...
