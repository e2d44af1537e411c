"""Several threads share gates and LSTMs, and gates share a call among threads; processes fork, exit and keep memory.

FASTGATE_STRESS_SECONDS (5 unless it is set) is how long threads call the same objects.
"""

import contextlib
import copy
import os
import pickle
import sys
import sysconfig
import threading
import time

import fastgate
import numpy as np
import pytest
from helpers import STORAGES, compiled_only, draw, draw_gate, dtype_of, linux_only, run_python, same_bits

SECONDS = float(os.environ.get("FASTGATE_STRESS_SECONDS", "5"))


def resident():
    """The bytes of memory that this process uses."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_threads(count, work, seconds=0.0):
    """Call work(i, turn) in `count` threads, with turn = 0, 1, ... until `seconds` have passed; none may raise."""
    errors, turns = [], [0] * count
    start, end = threading.Barrier(count), time.monotonic() + seconds

    def run(i):
        start.wait()
        try:
            while not errors and (not turns[i] or time.monotonic() < end):
                work(i, turns[i])
                turns[i] += 1
        except BaseException as error:  # otherwise the test would not see it
            errors.append(repr(error))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors[:3]
    print(f"\n{sum(turns)} turns in {seconds:g} s")


# ---- the number of threads --------------------------------------------------------------------


def usable_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_gates_report_their_threads(api, set_threads):
    weight = draw(4, 3)
    gates = {n: api.Gate(weight, threads=n) for n in (1, 2, np.int64(3), "auto", 10**30)}
    made = {n: gate.threads for n, gate in gates.items()}
    assert [made[n] for n in (1, 2, 3, "auto")] == [1, 2, 3, usable_cpus()]
    assert made[10**30] >= 100
    assert f"threads={made['auto']})" in repr(gates["auto"])
    for n, threads in [(5, 5), ("auto", usable_cpus()), (10**30, made[10**30])]:
        assert set_threads(n) is None
        assert {gate.threads for gate in gates.values()} == {threads}
        assert gates[2].__reduce__()[1][2]["threads"] == 2, "a pickle must keep the number that the gate was made with"
    set_threads(None)
    assert {n: gate.threads for n, gate in gates.items()} == made
    assert api.Gate.from_augmented(weight, threads=2).threads == 2


def test_show_config_says_how_many_threads(set_threads, capsys):
    def threads():
        fastgate.show_config()
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("threads "))

    assert threads() == f"threads      the number that each gate was made with; usable CPUs: {usable_cpus()}"
    set_threads(3)
    assert threads() == f"threads      3 for all; usable CPUs: {usable_cpus()}"


@pytest.mark.parametrize("value, threads", [("3", 3), ("auto", usable_cpus()), ("", 2)])
def test_the_environment_overrides_the_number_of_threads(value, threads):
    code = "import fastgate as f; print(*(make([[1]], threads=2).threads for make in (f.Gate, f.reference.Gate)))"
    run = run_python(code, FASTGATE_THREADS=value)
    assert run.stdout == f"{threads} {threads}\n", run.stderr


@compiled_only
@linux_only
def test_threads_are_started_by_the_calls_that_need_them():
    run = run_python("""
        import os
        import numpy as np
        import fastgate

        def count():
            return len(os.listdir("/proc/self/task"))

        x, small = np.ones((64, 1000), np.float32), np.ones((3, 1000), np.float32)
        one, two = (fastgate.Gate(np.ones((1000, 1000), np.float32), threads=n) for n in (1, 2))
        before = count()
        fastgate.Gate(small, threads=2)(x[0])
        one(x)
        fastgate.set_threads(1)
        two(x)
        assert count() == before, "a thread was started without need"
        fastgate.set_threads(None)
        two(x)
        assert count() == before + 1
        fastgate.set_threads(3)
        one(x)
        assert count() == before + 2
        print("ok")
    """)
    assert run.stdout == "ok\n", run.stderr


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, np.inf),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
          "/sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        ({"/proc/self/cgroup": "3:cpu,cpuacct:/x\n1:memory:/y\n", "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "250000\n",
          "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"/proc/self/cgroup": "3:cpu:/x\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "nonsense\n"}, np.inf),
        ({}, np.inf),
    ],
)  # fmt: skip
def test_the_cpu_quota_of_a_container_is_read(files, quota, monkeypatch):
    monkeypatch.setattr(fastgate._parameters, "_lines", lambda path: files.get(path, "").splitlines())
    assert fastgate._parameters._quota() == quota
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert fastgate._parameters.cpu_count() == (64 if quota == np.inf else max(1, int(np.ceil(quota))))


# ---- the same results -------------------------------------------------------------------------

LARGE = [(1024, 1024, 1), (1000, 700, 5), (130, 300, 64), (40, 9000, 3), (3000, 65, 1), (3, 5, 2), (0, 4, 9)]


@compiled_only
@pytest.mark.parametrize("storage", STORAGES)
def test_results_are_those_of_one_thread(storage, set_threads):
    dtype = dtype_of(storage)
    for m, n, batch in LARGE:
        weight, bias = draw_gate(m, n, dtype)
        x = draw(batch, n, dtype=dtype)
        gates = [fastgate.Gate(weight, bias, storage=storage, threads=t) for t in (1, 2, 3, "auto", 64)]
        want = gates[0](x)
        out = np.empty_like(want)
        for gate in gates:
            bound = gate.bind(x[:, : n // 3].copy(), x[:, n // 3 :].copy(), out=out)
            for _ in range(20):
                same_bits(gate(x), want)
                out[...] = 7
                same_bits(bound(), want)
            same_bits(gate(x[batch - 1]), want[batch - 1])
        set_threads(2)
        same_bits(gates[0](x), want)
        set_threads(1)
        same_bits(gates[1](x), want)
        set_threads(None)


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_share_a_gate(threads):
    """Calls of one row, which hold the GIL, run beside batches, which do not, and beside threads that make gates."""
    weight, bias = draw_gate(200, 150)
    x = draw(64, 150)
    shared = fastgate.Gate(weight, bias, threads=threads)
    want = shared(x)
    single = [shared(row) for row in x]
    batches = [np.empty_like(want) for _ in range(8)]
    bound = [shared.bind(row[:60].copy(), row[60:].copy(), out=np.empty(200, np.float32)) for row in x[:8]]

    def work(me, turn):
        i = turn % 64
        same_bits(shared(x, out=batches[me]), want)
        for _ in range(20):
            same_bits(shared(x[i]), single[i])
        same_bits(bound[me](), single[me])
        same_bits(fastgate.gate(x[i], weight, bias), single[i])
        if me % 2:
            same_bits(fastgate.Gate(weight, bias)(x[i]), single[i])

    in_threads(8, work, SECONDS)


@compiled_only
def test_eight_threads_call_gates_of_two_threads(set_threads):
    """The calls are large, of every storage, and the number of threads changes all the time."""
    gates, inputs, wanted = [], [], []
    for storage in STORAGES:
        x = draw(6, 600, dtype=dtype_of(storage))
        gates.append(fastgate.Gate(*draw_gate(1000, 600, x.dtype.type), storage=storage, threads=2))
        inputs.append(x)
        wanted.append(gates[-1](x))

    def work(me, turn):
        i = (me + turn) % len(STORAGES)
        same_bits(gates[i](inputs[i]), wanted[i])
        same_bits(gates[i](inputs[i][me % 6]), wanted[i][me % 6])
        if me == 0 and turn % 10 == 0:
            set_threads([None, 1, 3][turn // 10 % 3])

    in_threads(8, work, SECONDS)


# ---- without the GIL --------------------------------------------------------------------------


@compiled_only
@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the GIL")
def test_the_gil_stays_off():
    run = run_python("import sys, fastgate; print(sys._is_gil_enabled())", "-W", "error")
    assert (run.returncode, run.stdout, run.stderr) == (0, "False\n", "")


@pytest.mark.parametrize("size", [24, 300])  # steps of 24 units hold the GIL, if there is one; those of 300 do not
def test_threads_that_break_the_rules_break_no_memory(size, set_threads):
    """While threads change one stream, buffers and a list, results may be any numbers; later they are right again."""
    layer = {"weight_ih": draw(4 * size, size) / size, "weight_hh": draw(4 * size, size, seed=1) / size}
    cell, lstm = fastgate.LSTMCell(**layer), fastgate.LSTM([layer, layer])
    gate = fastgate.Gate(layer["weight_ih"][:size], threads=2)
    x, h, c = draw(3, size), np.zeros((3, size), np.float32), np.zeros((3, size), np.float32)
    y, ys, listed, lengths = gate(x), np.empty((5, 3, size), np.float32), [0.5] * size, np.array([5, 2, 3])
    stream, zeros = lstm.stream(3), lstm.stream(3).state
    bound_gate = gate.bind(x, out=y)
    want = lstm(np.repeat(x[None], 5, 0))[0].tobytes()

    def change_list():
        del listed[size // 2 :]
        listed.extend([1.5] * (size - len(listed)))
        with contextlib.suppress(ValueError, IndexError, RuntimeError):  # the length may be another at that moment
            gate(listed)

    def change_lengths():
        lengths[:] = [5, 99, -1]
        lengths[:] = 5
        with contextlib.suppress(ValueError):
            lstm(ys, lengths=lengths, out=ys)

    actions = [
        lambda: stream.step(x, out=y),
        lambda: stream.step(x),
        stream.reset,
        lambda: setattr(stream, "state", zeros),
        lambda: copy.copy(stream).step(x),
        lambda: pickle.dumps(stream),
        bound_gate,
        lambda: cell(x, h, c, out=(h, c)),
        change_list,
        change_lengths,
        lambda: set_threads(None),
        lambda: set_threads(3),
    ]
    in_threads(8, lambda me, turn: actions[(me + turn * (me + 1)) % len(actions)](), SECONDS / 5)
    stream.reset()
    for _ in range(5):
        last = stream.step(x)
    same_bits(last, np.frombuffer(want, np.float32).reshape(5, 3, size)[-1])
    same_bits(bound_gate(), fastgate.Gate(layer["weight_ih"][:size])(x))


# ---- forks and exits --------------------------------------------------------------------------

FORKS = """
    import os
    import signal
    import threading
    import numpy as np
    import fastgate

    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((1000, 600), np.float32), rng.standard_normal((4, 600), np.float32)
    gate = fastgate.Gate(weight / 25, threads=2)
    want = fastgate.Gate(weight / 25)(x).tobytes()
    stop, wrong = threading.Event(), []

    def right():
        return gate(x).tobytes() == want

    def keep_calling():
        while not stop.is_set():
            if not right():
                wrong.append("beside a fork")

    thread = threading.Thread(target=keep_calling)
    for i in range(100):
        if i == 20:
            thread.start()
        assert right(), "before"
        child = os.fork()
        if not child:
            signal.alarm(60)  # this ends the child if it hangs
            os._exit(0 if all(right() for _ in range(5)) else 1)
        assert right(), "beside the child"
        assert os.waitpid(child, 0)[1] == 0, "in the child"
    stop.set()
    thread.join()
    assert not wrong
    print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks():
    run = run_python(FORKS)
    assert run.stdout == "ok\n", run.stderr


@compiled_only  # without the core, stderr has a warning
@pytest.mark.parametrize("busy", [False, True])
def test_the_interpreter_exits(busy):
    """It exits while workers wait, and also while a daemon thread still calls."""
    code = """
        import threading
        import numpy as np
        import fastgate

        gate = fastgate.Gate(np.ones((2000, 1000), np.float32), threads=3)
        x = np.ones((2, 1000), np.float32)
        gate(x)

        def keep_calling():
            while True:
                gate(x)

        if BUSY:
            threading.Thread(target=keep_calling, daemon=True).start()
            for _ in range(10):
                gate(x)
        print("ok")
    """
    for _ in range(5):
        run = run_python(code.replace("BUSY", str(busy)))
        assert (run.returncode, run.stdout, run.stderr) == (0, "ok\n", "")


# ---- memory -----------------------------------------------------------------------------------


@linux_only
def test_gates_made_and_dropped_under_load():
    """1000 gates of 0.5 MB, which run on two threads each, leave no memory behind while another gate is called."""
    weight, x = draw(500, 250), draw(8, 250)
    busy = fastgate.Gate(draw(600, 1000), threads=2)
    stop = threading.Event()

    def load():
        while not stop.is_set():
            busy(np.ones((2, 1000), np.float32))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        want = fastgate.Gate(weight)(x)
        for i in range(1000):
            if i == 100:
                before = resident()
            same_bits(fastgate.Gate(weight, threads=2)(x), want)
        growth = resident() - before
    finally:
        stop.set()
        thread.join()
    assert growth < 40e6, f"{growth / 1e6:.0f} MB more after 900 gates of 0.5 MB"


@linux_only
def test_memory_does_not_grow():
    weight, x = draw(500, 500), draw(3, 500)

    def work(me, turn):
        gate = fastgate.Gate(weight)  # 1 MB
        gate(x)
        gate.bind(x, out=np.empty((3, 500), np.float32))()
        fastgate.gate(x[0], weight)
        for bad in [x[:, 1:], x.astype(np.float64)]:
            with pytest.raises((ValueError, TypeError)):
                gate(bad)
        with pytest.raises(ValueError):
            fastgate.Gate(weight, x[0, 1:])

    for count in (20, 200):
        before = resident()
        for _ in range(count // 4):
            in_threads(4, work)
    growth = resident() - before
    assert growth < 40e6, f"{growth / 1e6:.0f} MB more after 200 gates of 1 MB"
