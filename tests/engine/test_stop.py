"""A wish to stop: noted inside a deferred block, an exit outside of it."""

import os
import signal

import pytest

from engine.stop import StopRequest


@pytest.fixture(autouse=True)
def handlers():
    """The handlers that a test installs go with it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_unless_deferred(number, code, capfd):
    stop = StopRequest().listen()
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), number)
    assert end.value.code == code and stop.number is None
    with stop.deferred():
        os.kill(os.getpid(), number)
        assert stop.number == number and "stopping once the state is saved" in capfd.readouterr().err
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), number)  # the second time
        assert end.value.code == code


def test_overlapping_blocks_defer_until_the_last_one_ends():
    """Trials that take turns end in any order."""
    stop = StopRequest().listen()
    first, second = stop.deferred(), stop.deferred()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    stop.number = None
    second.__exit__(None, None, None)
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)


def test_who_is_not_insistent_saves_once_however_often_it_is_told():
    stop = StopRequest(second_signal_exits=False).listen()
    with stop.deferred():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
