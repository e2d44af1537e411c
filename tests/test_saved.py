"""Saved gates and LSTMs have the bytes that are described, and come back as they were; damaged ones are refused.

tests/c/saved.c and fuzz.c test the loader itself with more values.
"""

import errno
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile

import fastgate
import numpy as np
import pytest
from fastgate import reference
from helpers import (
    STORAGES, alarms, compiled_only, draw, draw_gate, dtype_of, held, linux_only, needs_timers, run_python, same_bits,
    storages,
)
from helpers.layers import draw_layer, same
from helpers.saved_form import BACKWARDS, BATCH_FIRST, HEADER, INPUT_FORGET, read_gate, read_lstm, sealed

pytestmark = compiled_only

SIZES = [0, 1, 3, 15, 16, 17, 63, 64, 65, 130]


def saved(model):
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def random_gate(m, n, storage, threads=1):
    return fastgate.Gate(*draw_gate(m, n, dtype_of(storage)), storage=storage, threads=threads)


def random_lstm(seed):
    rng = np.random.default_rng(seed)
    storage = STORAGES[seed % len(STORAGES)]
    inputs, hidden = (int(size) for size in rng.choice([0, 1, 3, 15, 16, 17, 33], 2))
    outputs, dtype = rng.choice([None, None, 1, 4, 17]), dtype_of(storage)
    directions, layers = int(rng.integers(1, 3)), []
    for k in range(rng.integers(1, 4)):
        n = directions * (hidden if outputs is None else outputs) if k else inputs
        cells = [
            draw_layer(n, hidden, outputs, biases=1, peephole=rng.integers(2), dtype=dtype, seed=20 * k + 10 * d)
            for d in range(directions)
        ]
        layers.append(tuple(cells) if directions == 2 else cells[0])
    return fastgate.LSTM(
        layers,
        batch_first=bool(rng.integers(2)),
        reverse=bool(directions == 1 and rng.integers(2)),
        input_forget=bool(rng.integers(2)),
        clip=rng.choice([None, 0.5]),
        gate_clip=rng.choice([None, 0.75]),
        storage=storage,
        threads=int(rng.integers(1, 4)),
    )


# ---- there and back ---------------------------------------------------------------------------


@storages
def test_gates_are_saved_as_described_and_come_back(storage):
    for m in SIZES:
        for n in [*SIZES, 1030, 4100]:
            gate = random_gate(m, n, storage, threads=1 + n % 3)
            loaded = fastgate.Gate.load(saved(gate))
            x = draw(2, n, seed=2, dtype=dtype_of(storage))
            same_bits(loaded(x), gate(x))
            assert repr(loaded) == repr(gate) and loaded.nbytes == gate.nbytes
            same_bits(pickle.loads(pickle.dumps(loaded))(x), gate(x))
            head, *arrays = read_gate(saved(gate))
            same(arrays, held(gate))
            assert head["magic"] == b"fastgate" and head["format"] == 2 and head["threads"] == 1 + n % 3


@pytest.mark.parametrize("seed", range(100))
def test_lstms_are_saved_as_described_and_come_back(seed):
    lstm = random_lstm(seed)
    loaded = fastgate.LSTM.load(saved(lstm))
    x = draw(3, 2, lstm.input_size, dtype=dtype_of(lstm.storage))
    for again in (loaded, pickle.loads(pickle.dumps(loaded))):
        same(again(x), lstm(x))
        assert repr(again) == repr(lstm) and again.batch_first == lstm.batch_first
        assert saved(again) == saved(lstm)

    head, cells = read_lstm(saved(lstm))
    _, (layers,), options = lstm.__reduce__()[1]
    want = [cell for layer in layers for cell in (layer if lstm.bidirectional else [layer])]
    assert len(cells) == len(want) == head["layers"] * head["directions"]
    for got_cell, want_cell in zip(cells, want):
        assert got_cell.keys() == want_cell.keys()
        for key, array in want_cell.items():
            same_bits(got_cell[key], array)
    flags = {BACKWARDS: "reverse", INPUT_FORGET: "input_forget", BATCH_FIRST: "batch_first"}
    assert head["flags"] == sum(flag for flag, name in flags.items() if options[name])
    for name in ("clip", "gate_clip"):
        assert head[name] == (np.inf if options[name] is None else options[name])


def test_batch_first_can_be_chosen():
    """It says how an LSTM is called, so a service may want another order than the file's."""
    lstm = fastgate.LSTM([{"weight_ih": draw(20, 3), "weight_hh": draw(20, 5)}], batch_first=True)
    assert fastgate.LSTM.load(saved(lstm)).batch_first
    assert not fastgate.LSTM.load(saved(lstm), batch_first=False).batch_first


def test_weights_that_are_not_finite_come_back():
    weight = np.float32([[np.inf, -np.inf, np.nan, 1e-45]])
    for storage in ("float32", "float16", "bfloat16"):
        gate = fastgate.Gate(weight, storage=storage)
        _, got, _ = read_gate(saved(gate))
        same_bits(got, reference.rounded(weight, storage))
        assert saved(fastgate.Gate.load(saved(gate))) == saved(gate)


def test_the_reference_says_that_the_core_saves():
    gate = reference.Gate([[1.0]])
    for refused in (lambda: gate.save(io.BytesIO()), lambda: reference.LSTM.load(b"")):
        with pytest.raises(NotImplementedError, match="compiled core"):
            refused()


def test_cells_come_back():
    cell = fastgate.LSTMCell(draw(20, 3), draw(20, 5), clip=2.0)
    x = draw(7, 3)
    loaded = fastgate.LSTMCell.load(saved(cell))
    same_bits(loaded(x)[0], cell(x)[0])
    assert type(loaded) is fastgate.LSTMCell and repr(loaded) == repr(cell)
    same_bits(fastgate.LSTM.load(saved(cell))(x[:1])[0][0], cell(x[0])[0])
    both = ({"weight_ih": draw(4, 3), "weight_hh": draw(4, 1)},) * 2
    for lstm in (fastgate.LSTM([both]), fastgate.LSTM([both[0]], reverse=True)):
        with pytest.raises(ValueError, match=r"load this with LSTM\.load"):
            fastgate.LSTMCell.load(saved(lstm))


def test_loaded_lstms_have_the_same_streams():
    lstm = fastgate.LSTM([{"weight_ih": draw(20, 3), "weight_hh": draw(20, 5)}])
    stream, loaded = lstm.stream(), fastgate.LSTM.load(saved(lstm)).stream()
    for x in draw(5, 3):
        same_bits(loaded.step(x), stream.step(x))


# ---- files ------------------------------------------------------------------------------------


def test_files_are_written_replaced_and_read(tmp_path):
    gate, other = random_gate(20, 10, "float32"), random_gate(30, 10, "float32")
    path = tmp_path / "gate"
    gate.save(path)
    mapped = fastgate.Gate.load(path)
    other.save(str(path))  # this replaces the file, but not the memory that is mapped
    x = draw(10)
    same_bits(mapped(x), gate(x))
    same_bits(fastgate.Gate.load(str(path))(x), other(x))
    assert os.listdir(tmp_path) == ["gate"], "another file was left in the folder"
    with open(path, "wb") as file:
        gate.save(file)
    same_bits(fastgate.Gate.load(path)(x), gate(x))
    lstm = random_lstm(7)
    lstm.save(path)
    assert repr(fastgate.LSTM.load(path)) == repr(lstm)


@linux_only
def test_a_file_is_mapped_not_copied(tmp_path):
    path = tmp_path / "gate"
    gate = random_gate(2000, 2000, "float32")
    gate.save(path)
    loaded = fastgate.Gate.load(path)
    assert str(path) in open("/proc/self/maps").read()
    del loaded
    assert str(path) not in open("/proc/self/maps").read()


def test_paths_that_cannot_be_read_or_written(tmp_path):
    gate = random_gate(2, 3, "float32")
    with pytest.raises(FileNotFoundError):
        fastgate.Gate.load(tmp_path / "none")
    with pytest.raises(OSError):
        fastgate.Gate.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        gate.save(tmp_path / "no" / "folder")
    with pytest.raises(IsADirectoryError):
        gate.save(tmp_path)
    assert os.listdir(tmp_path) == []
    for wrong in (7, None, 1.5, [1, 2]):
        with pytest.raises(TypeError, match="a path or bytes"):
            fastgate.Gate.load(wrong)
        with pytest.raises(TypeError):
            gate.save(wrong)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no saved gate in '.*empty'"):
        fastgate.Gate.load(tmp_path / "empty")


def test_pipes_and_devices_are_not_replaced(tmp_path):
    gate = random_gate(20, 10, "float32")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(os.devnull, tmp_path / "device")
    for name in ("pipe", "device"):
        with pytest.raises(OSError) as error:
            gate.save(tmp_path / name)
        assert error.value.errno == errno.ENODEV
        assert not os.path.isfile(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["device", "pipe"]
    code = f"from fastgate import Gate; Gate.load({str(tmp_path / 'pipe')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ValueError: no saved gate" in run.stderr, "loading waited for a writer of the pipe"


def test_the_old_file_stays_if_there_is_no_room_for_the_new_one(tmp_path):
    path, gate = tmp_path / "gate", random_gate(20, 10, "float32")
    gate.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            random_gate(100, 10, "float32").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and os.listdir(tmp_path) == ["gate"]
    assert path.read_bytes() == saved(gate)


def test_an_interrupt_after_the_file_is_replaced_is_raised(tmp_path, monkeypatch):
    gate, replace = random_gate(3, 2, "float32"), os.replace

    def interrupted(*names):
        replace(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gate.save(tmp_path / "gate")
    same_bits(fastgate.Gate.load(tmp_path / "gate")(draw(2)), gate(draw(2)))
    assert os.listdir(tmp_path) == ["gate"]


def test_a_link_with_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    other = tmp_path / f".{bytes(8).hex()}.tmp"
    other.symlink_to(tmp_path / "none")
    with pytest.raises(FileExistsError):
        random_gate(2, 3, "float32").save(tmp_path / "gate")
    assert other.is_symlink() and os.listdir(tmp_path) == [other.name]


def test_every_name_that_the_file_system_allows_is_written(tmp_path):
    gate = random_gate(2, 3, "float32")
    for length in (200, 240, 255):
        gate.save(tmp_path / ("n" * length))
        assert repr(fastgate.Gate.load(tmp_path / ("n" * length))) == repr(gate)


class PathWithWrite(os.PathLike):
    """A path that has a write(), as py.path.local has, whose write() takes text."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)

    def write(self, data):
        raise AssertionError("a path is not a file object")


def test_a_path_with_a_write_of_its_own(tmp_path):
    gate = random_gate(2, 3, "float32")
    gate.save(PathWithWrite(tmp_path / "gate"))
    assert (tmp_path / "gate").read_bytes() == saved(gate)


class Partial:
    """A file object that takes a part of the bytes and says how many, as tempfile's unbuffered files do."""

    def __init__(self, most):
        self.most, self.taken = most, b""

    def write(self, data):
        self.taken += bytes(data[: self.most])
        return min(self.most, len(data))


class Raw(Partial, io.RawIOBase):
    """A raw file takes only a part of more than 2 GiB, and returns None where it would have to wait."""

    def writable(self):
        return True

    def write(self, data):
        return super().write(data) or None


@pytest.mark.parametrize("kind", [Partial, Raw])
def test_file_objects_that_take_a_part_are_given_the_rest(kind):
    gate, file = random_gate(20, 10, "float32"), kind(100)
    gate.save(file)
    assert file.taken == saved(gate)
    with pytest.raises(BlockingIOError):
        gate.save(kind(0))


def test_unbuffered_files_are_given_all_bytes():
    gate = random_gate(20, 10, "float32")
    with tempfile.NamedTemporaryFile(buffering=0) as unbuffered:
        gate.save(unbuffered)
        with open(unbuffered.name, "rb") as back:
            assert back.read() == saved(gate)


@linux_only
def test_loaded_gates_keep_no_file_open(tmp_path):
    random_gate(2, 3, "float32").save(tmp_path / "gate")
    before = len(os.listdir("/proc/self/fd"))
    gates = [fastgate.Gate.load(tmp_path / "gate") for _ in range(10)]
    each = 1 if sys.version_info < (3, 13) else 0  # mmap keeps a descriptor of its own before Python 3.13
    assert len(os.listdir("/proc/self/fd")) == before + each * len(gates)


def test_loaded_bytes_are_copied():
    gate = random_gate(20, 10, "float32")
    data = bytearray(saved(gate))
    for buffer in (data, memoryview(data), np.frombuffer(data, np.uint8), bytes(data)):
        loaded = fastgate.Gate.load(buffer)
        before = loaded(draw(10))
        if buffer is data:
            data[200] ^= 1
            same_bits(loaded(draw(10)), before)
            data[200] ^= 1
    for strided in (memoryview(data * 2)[::2], np.frombuffer(data * 2, np.uint8)[::2]):
        with pytest.raises(ValueError, match="contiguous"):
            fastgate.Gate.load(strided)
    given = sys.getrefcount(data)
    gates = [fastgate.Gate.load(data) for _ in range(3)]
    assert sys.getrefcount(data) == given, f"{gates} still refer to the bytes"


# ---- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Gate", "LSTM"])
def test_every_damaged_byte_and_every_cut_is_refused(kind):
    model = random_gate(3, 2, "float32")
    if kind == "LSTM":
        model = fastgate.LSTM([{"weight_ih": draw(4, 1), "weight_hh": draw(4, 1)}])
    load = getattr(fastgate, kind).load
    data = saved(model)
    for i in range(len(data)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[i] ^= change
            with pytest.raises(ValueError, match=f"no saved {'gate' if kind == 'Gate' else kind}: "):
                load(damaged)
        with pytest.raises(ValueError):
            load(data[:i])
    with pytest.raises(ValueError):
        load(data + bytes(64))


def test_kinds_are_not_mixed_up():
    gate, cell = random_gate(4, 2, "float32"), fastgate.LSTMCell(draw(4, 1), draw(4, 1))
    for load in (fastgate.LSTM.load, fastgate.LSTMCell.load):
        with pytest.raises(ValueError, match="no saved LSTM"):
            load(saved(gate))
    with pytest.raises(ValueError, match="no saved gate"):
        fastgate.Gate.load(saved(cell))


def test_the_checksum_is_zlibs_crc32():
    data = saved(random_gate(40, 30, "int8"))
    assert sealed(data) == data


def test_another_version_is_refused():
    """The error names both formats; but a damaged file, which may have any number there, is only called damaged."""
    for kind, saver, loader in [
        ("gate", random_gate(3, 2, "float32"), fastgate.Gate),
        ("LSTM", fastgate.LSTMCell(draw(4, 1), draw(4, 1)), fastgate.LSTM),
    ]:
        data = saved(saver)
        older = data[:12] + (1).to_bytes(4, sys.byteorder) + data[16:]
        says = f"has format 1, and this version of fastgate reads format 2: make the {kind}"
        with pytest.raises(ValueError, match=says):
            loader.load(sealed(older))
        with pytest.raises(ValueError, match="damaged"):
            loader.load(older)


def test_a_clip_of_0_is_none():
    """C writes 0 where an LSTM has no clip, and Python infinity."""
    data = saved(fastgate.LSTMCell(draw(4, 1), draw(4, 1)))
    assert data[80:96] == np.float64([np.inf, np.inf]).tobytes()
    cell = fastgate.LSTMCell.load(sealed(data[:80] + bytes(16) + data[96:]))
    same_bits(pickle.loads(pickle.dumps(cell))([100.0])[1], fastgate.LSTMCell.load(data)([100.0])[1])


def field(name, value):
    """The offset of a header's field, and the bytes of this value there."""
    dtype, offset = HEADER.fields[name]
    return offset, value.to_bytes(min(dtype.itemsize, 8), sys.byteorder)


FIELDS = [name for name in HEADER.names if name not in ("magic", "crc", "format", "size")]
VALUES = [0, 1, 2, 3, 4, 5, 8, 16, 17, 64, 255, 257, 65535]
VALUES += [2**k - e for k in (31, 32, 47, 57, 63, 64) for e in (0, 1)]
VALUES += np.float64([-0.0, 0.5, -1, np.inf, np.nan]).view(np.uint64).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_only_what_saving_writes_is_loaded(seed):
    """Headers and contents are changed at random and sealed: they are refused, or saving gives the same bytes again."""
    rng = np.random.default_rng(seed)
    kind = fastgate.LSTM if seed % 4 else fastgate.Gate
    good = saved(random_lstm(seed) if seed % 4 else random_gate(seed % 3, 5, STORAGES[seed // 4]))
    results = []
    for _ in range(100):
        data = bytearray(good + bytes(64 * (rng.integers(10) == 0)))
        if rng.integers(2):
            for name in rng.choice(FIELDS, rng.integers(1, 3)):
                bits = 8 * min(8, HEADER[name].itemsize)
                offset, value = field(name, VALUES[rng.integers(len(VALUES))] % 2**bits)
                data[offset : offset + len(value)] = value
        elif len(data) > 128:
            data[rng.integers(128, len(data))] ^= int(rng.integers(1, 256))
        offset, size = field("size", len(data))
        data[offset : offset + len(size)] = size
        forged = sealed(bytes(data))
        try:
            loaded = kind.load(forged)
        except ValueError:
            results.append(False)
            continue
        assert saved(loaded) == forged, bytes(data[:128]).hex()
        results.append(True)
    assert not all(results)


def test_sizes_and_threads_that_only_c_can_write():
    empty = saved(fastgate.Gate(np.zeros((0, 3), np.float32)))
    for size in (2**57, 2**63, 2**64 - 1):
        offset, value = field("input_size", size)
        with pytest.raises(ValueError, match="larger than any array"):
            fastgate.Gate.load(sealed(empty[:offset] + value + empty[offset + 8 :]))
    cell = saved(fastgate.LSTMCell(draw(4, 1), draw(4, 1)))
    for made_with, threads in ((0, 1), (2**32 - 1, 256)):
        offset, value = field("threads", made_with)
        loaded = fastgate.LSTM.load(sealed(cell[:offset] + value + cell[offset + 4 :]))
        assert f"threads={threads})" in repr(loaded) and repr(pickle.loads(pickle.dumps(loaded))) == repr(loaded)


def test_processes_share_a_file(tmp_path):
    gate = random_gate(40, 30, "float32")
    gate.save(tmp_path / "gate")
    code = f"import fastgate; print(fastgate.Gate.load({str(tmp_path / 'gate')!r})([0.5] * 30).tobytes().hex())"
    runs = [run_python(code) for _ in range(2)]
    expected = gate([0.5] * 30).tobytes().hex()
    assert [run.stdout.strip() for run in runs] == [expected] * 2, runs[0].stderr


@needs_timers
@pytest.mark.parametrize("kind", ["Gate", "LSTM"])
def test_loading_answers_signals(kind, tmp_path):
    """A file may have holes, so that one which needs little room takes long to read."""
    path, size = tmp_path / "large.fastgate", 8 << 30
    path.write_bytes(b"fastgate" + struct.pack("<IIQ", 0, 2, size))
    os.truncate(path, size)

    def handler(*_):
        raise KeyboardInterrupt

    with alarms(handler, 0.1), pytest.raises(KeyboardInterrupt):
        getattr(fastgate, kind).load(path)
