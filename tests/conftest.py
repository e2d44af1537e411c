import fastgate
import pytest

pytest.register_assert_rewrite("helpers")


@pytest.fixture(params=[fastgate, fastgate.reference], ids=["core", "reference"])
def api(request):
    """The module whose gate and Gate a test uses: it runs with the compiled core, then with the reference."""
    return request.param


@pytest.fixture
def set_threads():
    """fastgate.set_threads; until it is called, gates use the threads they were made with, and not FASTGATE_THREADS."""
    before = fastgate._parameters.override
    fastgate.set_threads(None)
    yield fastgate.set_threads
    fastgate.set_threads(before or None)
