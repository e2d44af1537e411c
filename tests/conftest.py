import fastgate
import pytest

pytest.register_assert_rewrite("helpers")


@pytest.fixture(params=[fastgate, fastgate.reference], ids=["core", "reference"])
def api(request):
    """Where gate and Gate are taken from: each test runs on both."""
    return request.param


@pytest.fixture
def set_threads():
    """fastgate.set_threads; gates run as they were made until it is called, whatever FASTGATE_THREADS."""
    before = fastgate._parameters.override
    fastgate.set_threads(None)
    yield fastgate.set_threads
    fastgate.set_threads(before or None)
