"""Threads that share one gate, for FASTGATE_STRESS_SECONDS (default 5), and memory that must not grow."""

import os
import sys
import threading
import time

import fastgate
import numpy as np
import pytest

SECONDS = float(os.environ.get("FASTGATE_STRESS_SECONDS", "5"))


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_eight_threads_share_a_gate():
    """Single calls (with the GIL) and batches (without) in all threads, while others make gates."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((200, 150), np.float32) / 12  # 118 KiB: walks turn around
    bias, x = rng.standard_normal(200, np.float32), rng.standard_normal((64, 150), np.float32)
    shared = fastgate.Gate(weight, bias)
    want = shared(x)
    single = [shared(row) for row in x]
    deadline = time.monotonic() + SECONDS
    calls, errors = [0] * 8, []
    start = threading.Barrier(8)

    def work(me):
        out, batch = np.empty(200, np.float32), np.empty_like(want)
        bound = shared.bind(x[me, :60].copy(), x[me, 60:].copy(), out=out)
        start.wait()
        while time.monotonic() < deadline and not errors:
            i = calls[me] % 64
            if shared(x, out=batch).tobytes() != want.tobytes():
                errors.append("a batch")
            for _ in range(20):
                if shared(x[i]).tobytes() != single[i].tobytes():
                    errors.append("a call")
            if bound().tobytes() != single[me].tobytes():
                errors.append("a bound call")
            if fastgate.gate(x[i], weight, bias).tobytes() != single[i].tobytes():
                errors.append("one shot")
            if me % 2:  # made, used and dropped beside the others
                if fastgate.Gate(weight, bias)(x[i]).tobytes() != single[i].tobytes():
                    errors.append("a gate of its own")
            calls[me] += 1

    def guarded(me):
        try:
            work(me)
        except BaseException as error:  # or the test would not see it
            errors.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(me,)) for me in range(8)]
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
    assert min(calls) > 0
    print(f"\n{sum(calls)} turns in {SECONDS:g} s")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow():
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((500, 500), np.float32), rng.standard_normal((3, 500), np.float32)

    def turn(count):
        def work():
            for _ in range(count):
                gate = fastgate.Gate(weight)  # 1 MB
                gate(x)
                gate.bind(x, out=np.empty((3, 500), np.float32))()
                fastgate.gate(x[0], weight)
                for bad in [x[:, 1:], x.astype(np.float64)]:
                    with pytest.raises((ValueError, TypeError)):
                        gate(bad)
                with pytest.raises(ValueError):
                    fastgate.Gate(weight, x[0, 1:])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    turn(5)
    before = resident()
    turn(50)  # 200 gates
    growth = resident() - before
    assert growth < 40e6, f"{growth / 1e6:.0f} MB more after 200 gates of 1 MB"
