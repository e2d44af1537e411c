"""Saved gates and LSTMs: the reference writes and reads the same bytes, by NumPy; what is damaged is refused.

tests/c/saved.c and fuzz.c try the loader itself harder.
"""

import errno
import io
import os
import pickle
import resource
import subprocess
import sys
import zlib

import fastgate
import numpy as np
import pytest
from conftest import COMPILED, STORAGES, compiled_only, draw, draw_gate, dtype_of, same_bits
from fastgate import _saved, reference

SIZES = [0, 1, 3, 15, 16, 17, 63, 64, 65, 130]


def saved(model):
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def random_gate(api, m, n, storage, threads=1):
    return api.Gate(*draw_gate(m, n, dtype_of(storage)), storage=storage, threads=threads)


def random_lstm(api, seed):
    rng = np.random.default_rng(seed)
    storage = STORAGES[seed % len(STORAGES)]
    dtype = dtype_of(storage)
    inputs, hidden = (int(size) for size in rng.choice([0, 1, 3, 15, 16, 17, 33], 2))
    projected = int(rng.choice([0, 0, 1, 4, 17]))
    directions, outputs = int(rng.integers(1, 3)), projected or hidden

    def cell(columns):
        parameters = {
            "weight_ih": draw(4 * hidden, columns, seed=seed, dtype=dtype),
            "weight_hh": draw(4 * hidden, outputs, seed=seed, dtype=dtype),
            "bias_ih": draw(4 * hidden, seed=seed, dtype=dtype),
        }
        if rng.integers(2):
            parameters["peephole"] = draw(3, hidden, seed=seed, dtype=dtype)
        if projected:
            parameters["projection"] = draw(projected, hidden, seed=seed, dtype=dtype)
        return parameters

    layers = []
    for k in range(rng.integers(1, 4)):
        sides = [cell(directions * outputs if k else inputs) for _ in range(directions)]
        layers.append(sides[0] if directions == 1 else tuple(sides))
    return api.LSTM(
        layers,
        reverse=bool(directions == 1 and rng.integers(2)),
        input_forget=bool(rng.integers(2)),
        clip=rng.choice([None, 0.5]),
        gate_clip=rng.choice([None, 0.75]),
        storage=storage,
        threads=int(rng.integers(1, 4)),
    )


# ---- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_gates_come_back(storage, api):
    for m in SIZES:
        for n in [*SIZES, 1030, 4100]:
            gate = random_gate(api, m, n, storage, threads=1 + n % 3)
            loaded = api.Gate.load(saved(gate))
            x = draw(2, n, seed=2, dtype=dtype_of(storage))
            same_bits(loaded(x), gate(x))
            assert repr(loaded) == repr(gate) and loaded.nbytes == gate.nbytes
            same_bits(pickle.loads(pickle.dumps(loaded))(x), gate(x))


@pytest.mark.parametrize("seed", range(40))
def test_lstms_come_back(seed, api):
    lstm = random_lstm(api, seed)
    loaded = api.LSTM.load(saved(lstm), batch_first=True)
    assert loaded.batch_first and not lstm.batch_first
    x = draw(3, 2, lstm.input_size, dtype=dtype_of(lstm.storage))
    y, state = lstm(x)
    loaded_y, loaded_state = loaded(x.swapaxes(0, 1))
    same_bits(loaded_y.swapaxes(0, 1).copy(), y)
    for a, b in zip(loaded_state, state):
        same_bits(a, b)
    assert repr(loaded) == repr(lstm).replace("batch_first=False", "batch_first=True")
    again = pickle.loads(pickle.dumps(loaded))
    same_bits(again(x.swapaxes(0, 1))[0], loaded_y)


@compiled_only
@pytest.mark.parametrize("storage", STORAGES)
def test_the_reference_writes_the_same_bytes_of_gates(storage):
    for m in SIZES:
        for n in [*SIZES, 1030, 4100]:
            core, oracle = (saved(random_gate(api, m, n, storage)) for api in (fastgate, reference))
            assert core == oracle, (m, n)


@compiled_only
@pytest.mark.parametrize("seed", range(100))
def test_the_reference_writes_the_same_bytes_of_lstms(seed):
    assert saved(random_lstm(fastgate, seed)) == saved(random_lstm(reference, seed))


@compiled_only
def test_values_that_are_not_finite():
    weight = np.float32([[np.inf, -np.inf, np.nan, 1e-45]])
    for storage in ("float32", "float16", "bfloat16"):
        gates = [api.Gate(weight, storage=storage) for api in (fastgate, reference)]
        assert saved(gates[0]) == saved(gates[1])


def test_cells(api):
    cell = api.LSTMCell(draw(20, 3), draw(20, 5), clip=2.0)
    x = draw(7, 3)
    loaded = api.LSTMCell.load(saved(cell))
    same_bits(loaded(x)[0], cell(x)[0])
    assert type(loaded) is api.LSTMCell and repr(loaded) == repr(cell)
    same_bits(api.LSTM.load(saved(cell))(x[:1])[0][0], cell(x[0])[0])
    both = ({"weight_ih": draw(4, 3), "weight_hh": draw(4, 1)},) * 2
    for lstm in (api.LSTM([both]), api.LSTM([both[0]], reverse=True)):
        with pytest.raises(ValueError, match=r"load this with LSTM\.load"):
            api.LSTMCell.load(saved(lstm))


def test_streams_go_on_after_loading(api):
    lstm = api.LSTM([{"weight_ih": draw(20, 3), "weight_hh": draw(20, 5)}])
    stream, loaded = lstm.stream(), api.LSTM.load(saved(lstm)).stream()
    for x in draw(5, 3):
        same_bits(loaded.step(x), stream.step(x))


# ---- files ------------------------------------------------------------------------------------


def test_files(api, tmp_path):
    gate, other = random_gate(api, 20, 10, "float32"), random_gate(api, 30, 10, "float32")
    path = tmp_path / "gate"
    gate.save(path)
    mapped = api.Gate.load(path)
    other.save(str(path))  # replaces it: what is mapped stays
    x = draw(10)
    same_bits(mapped(x), gate(x))
    same_bits(api.Gate.load(str(path))(x), other(x))
    assert os.listdir(tmp_path) == ["gate"], "nothing is left beside it"
    with open(path, "wb") as file:
        gate.save(file)
    same_bits(api.Gate.load(path)(x), gate(x))
    lstm = random_lstm(api, 7)
    lstm.save(path)
    assert repr(api.LSTM.load(path)) == repr(lstm)


@compiled_only
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_file_is_mapped_not_copied(tmp_path):
    path = tmp_path / "gate"
    gate = random_gate(fastgate, 2000, 2000, "float32")
    gate.save(path)
    loaded = fastgate.Gate.load(path)
    assert str(path) in open("/proc/self/maps").read()
    del loaded
    assert str(path) not in open("/proc/self/maps").read()


def test_files_that_cannot_be(api, tmp_path):
    gate = random_gate(api, 2, 3, "float32")
    with pytest.raises(FileNotFoundError):
        api.Gate.load(tmp_path / "none")
    with pytest.raises(OSError):
        api.Gate.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        gate.save(tmp_path / "no" / "folder")
    with pytest.raises(OSError):
        gate.save(tmp_path)
    assert os.listdir(tmp_path) == []
    for wrong in (7, None, 1.5, [1, 2]):
        with pytest.raises(TypeError, match="a path or bytes"):
            api.Gate.load(wrong)
        with pytest.raises(TypeError):
            gate.save(wrong)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no saved gate in '.*empty'"):
        api.Gate.load(tmp_path / "empty")


class Raw(io.RawIOBase):
    """Takes a part of what it is given, as a raw file does of more than 2 GiB."""

    def __init__(self, most):
        self.most, self.taken = most, b""

    def writable(self):
        return True

    def write(self, data):
        self.taken += bytes(data[: self.most])
        return min(self.most, len(data)) or None  # None: it would have to wait


def test_raw_files_are_given_the_rest(api):
    gate, raw = random_gate(api, 20, 10, "float32"), Raw(100)
    gate.save(raw)
    assert raw.taken == saved(gate)
    with pytest.raises(BlockingIOError):
        gate.save(Raw(0))


def test_what_is_no_file_is_not_replaced(api, tmp_path):
    gate = random_gate(api, 20, 10, "float32")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(os.devnull, tmp_path / "device")
    for name in ("pipe", "device"):
        with pytest.raises(OSError) as error:
            gate.save(tmp_path / name)
        assert error.value.errno == errno.ENODEV
        assert not os.path.isfile(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        gate.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["device", "pipe"]
    code = f"from {api.__name__} import Gate; Gate.load({str(tmp_path / 'pipe')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ValueError: no saved gate" in run.stderr, "waited for who writes into the pipe"


def test_the_old_file_stays_where_there_is_no_room(api, tmp_path):
    path, gate = tmp_path / "gate", random_gate(api, 20, 10, "float32")
    gate.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            random_gate(api, 100, 10, "float32").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and os.listdir(tmp_path) == ["gate"]
    assert path.read_bytes() == saved(gate)


def test_what_lies_beside_is_not_written_to(api, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    other = tmp_path / f"gate.{bytes(8).hex()}.tmp"
    other.symlink_to(tmp_path / "none")
    with pytest.raises(FileExistsError):
        random_gate(api, 2, 3, "float32").save(tmp_path / "gate")
    assert other.is_symlink() and os.listdir(tmp_path) == [other.name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loaded_gates_take_no_file_descriptors(api, tmp_path):
    random_gate(api, 2, 3, "float32").save(tmp_path / "gate")
    before = len(os.listdir("/proc/self/fd"))
    gates = [api.Gate.load(tmp_path / "gate") for _ in range(10)]
    mapped_by_a_descriptor = api is fastgate and COMPILED and sys.version_info < (3, 13)
    assert len(os.listdir("/proc/self/fd")) == before + mapped_by_a_descriptor * len(gates)


def test_bytes_are_copied(api):
    gate = random_gate(api, 20, 10, "float32")
    data = bytearray(saved(gate))
    for buffer in (data, memoryview(data), np.frombuffer(data, np.uint8), bytes(data)):
        loaded = api.Gate.load(buffer)
        before = loaded(draw(10))
        if buffer is data:
            data[200] ^= 1
            same_bits(loaded(draw(10)), before)
            data[200] ^= 1
    for strided in (memoryview(data * 2)[::2], np.frombuffer(data * 2, np.uint8)[::2]):
        with pytest.raises(ValueError, match="contiguous"):
            api.Gate.load(strided)
    given = sys.getrefcount(data)
    gates = [api.Gate.load(data) for _ in range(3)]
    assert sys.getrefcount(data) == given, f"{gates} need them no more"


# ---- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Gate", "LSTM"])
def test_every_damaged_byte_and_every_cut_is_refused(kind, api):
    model = random_gate(api, 3, 2, "float32")
    if kind == "LSTM":
        model = api.LSTM([{"weight_ih": draw(4, 1), "weight_hh": draw(4, 1)}])
    load = getattr(api, kind).load
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


def test_kinds_are_not_mixed_up(api):
    gate, cell = random_gate(api, 4, 2, "float32"), api.LSTMCell(draw(4, 1), draw(4, 1))
    for load in (api.LSTM.load, api.LSTMCell.load):
        with pytest.raises(ValueError, match="no saved LSTM"):
            load(saved(gate))
    with pytest.raises(ValueError, match="no saved gate"):
        api.Gate.load(saved(cell))


def sealed(data):
    """The same with the checksum of its content."""
    return data[:8] + zlib.crc32(data[12:]).to_bytes(4, sys.byteorder) + data[12:]


def test_the_checksum_is_that_of_zlib():
    data = saved(random_gate(fastgate, 40, 30, "int8"))
    assert sealed(data) == data


def test_another_version_is_refused(api):
    """By the numbers of both formats; what is damaged may have any number, and is only damaged."""
    for kind, saver, loader in [
        ("gate", random_gate(api, 3, 2, "float32"), api.Gate),
        ("LSTM", api.LSTMCell(draw(4, 1), draw(4, 1)), api.LSTM),
    ]:
        data = saved(saver)
        older = data[:12] + (1).to_bytes(4, sys.byteorder) + data[16:]
        with pytest.raises(ValueError, match=f"has format 1, and this version of fastgate reads format 2: make the {kind}"):
            loader.load(sealed(older))
        with pytest.raises(ValueError, match="damaged"):
            loader.load(older)


def test_what_c_calls_no_clip(api):
    """0, where Python has infinity."""
    data = saved(api.LSTMCell(draw(4, 1), draw(4, 1)))
    assert data[80:96] == np.float64([np.inf, np.inf]).tobytes()
    cell = api.LSTMCell.load(sealed(data[:80] + bytes(16) + data[96:]))
    same_bits(pickle.loads(pickle.dumps(cell))([100.0])[1], api.LSTMCell.load(data)([100.0])[1])


def field(name, value):
    """Header bytes from, to, and what is written there."""
    dtype, offset = _saved.HEADER.fields[name]
    return offset, value.to_bytes(min(dtype.itemsize, 8), sys.byteorder)


FIELDS = [name for name in _saved.HEADER.names if name not in ("magic", "crc", "format", "size")]
VALUES = [0, 1, 2, 3, 4, 5, 8, 16, 17, 64, 255, 257, 65535]
VALUES += [2**k - e for k in (31, 32, 47, 57, 63, 64) for e in (0, 1)]
VALUES += np.float64([-0.0, 0.5, -1, np.inf, np.nan]).view(np.uint64).tolist()


@compiled_only
@pytest.mark.parametrize("seed", range(20))
def test_the_reference_takes_and_refuses_the_same(seed):
    """Headers that say something else, and are sealed."""
    rng = np.random.default_rng(seed)
    kind = "LSTM" if seed % 4 else "Gate"
    good = saved(random_lstm(fastgate, seed) if seed % 4 else random_gate(fastgate, seed % 3, 5, "float32"))
    results = []
    for _ in range(100):
        data = bytearray(good + bytes(64 * (rng.integers(10) == 0)))
        for name in rng.choice(FIELDS, rng.integers(1, 3)):
            bits = 8 * min(8, _saved.HEADER[name].itemsize)
            offset, value = field(name, VALUES[rng.integers(len(VALUES))] % 2**bits)
            data[offset : offset + len(value)] = value
        if rng.integers(5) == 0 and len(data) > 128:
            data[128] = rng.integers(3)
        offset, size = field("size", len(data))
        data[offset : offset + len(size)] = size
        loaded = []
        for api in (fastgate, reference):
            try:
                loaded.append(repr(getattr(api, kind).load(sealed(bytes(data)))))
            except ValueError:
                loaded.append("refused")
        assert loaded[0] == loaded[1], bytes(data[:128]).hex()
        results.append(loaded[0])
    assert "refused" in results and len(set(results)) > 1


def test_sizes_and_threads_that_only_c_can_say(api):
    empty = saved(api.Gate(np.zeros((0, 3), np.float32)))
    for size in (2**57, 2**63, 2**64 - 1):
        offset, value = field("input_size", size)
        with pytest.raises(ValueError, match="beyond any array"):
            api.Gate.load(sealed(empty[:offset] + value + empty[offset + 8 :]))
    cell = saved(api.LSTMCell(draw(4, 1), draw(4, 1)))
    for made_with, threads in ((0, 1), (2**32 - 1, 256)):
        offset, value = field("threads", made_with)
        loaded = api.LSTM.load(sealed(cell[:offset] + value + cell[offset + 4 :]))
        assert f"threads={threads})" in repr(loaded) and repr(pickle.loads(pickle.dumps(loaded))) == repr(loaded)


@compiled_only
def test_the_methods_of_another_self():
    for method in (fastgate.Gate.save, fastgate.LSTM.save, fastgate.LSTMCell.save):
        for wrong in (None, 1, object()):
            with pytest.raises(TypeError):
                method(wrong, io.BytesIO())


def test_processes_share_a_file(tmp_path):
    gate = random_gate(fastgate, 40, 30, "float32")
    gate.save(tmp_path / "gate")
    code = f"import fastgate; print(fastgate.Gate.load({str(tmp_path / 'gate')!r})([0.5] * 30).tobytes().hex())"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    expected = gate([0.5] * 30).tobytes().hex()
    assert [run.stdout.strip() for run in runs] == [expected] * 2, runs[0].stderr
