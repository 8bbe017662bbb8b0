"""A wish to stop, from SIGINT or SIGTERM: noted, so that a step is never cut in two, and acted on between steps."""

import contextlib
import os
import signal
from collections.abc import Iterator


class StopRequest:
    """`number` is the signal that asked for the end, None while none has.

    Signals count once `listen` was called. Inside `deferred` the first one is noted, for whoever looks at `number`;
    outside of it, and the second time, the process ends at once with exit code 130 or 143. second_signal_exits: whether
    a second one ends the process at once. If so, the first one is answered by a line: a save takes its time.
    """

    def __init__(self, second_signal_exits: bool = True):
        self.number: int | None = None
        self.second_signal_exits = second_signal_exits
        self._deferring = 0  # how many `deferred` blocks are open

    def listen(self) -> "StopRequest":
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        return self

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that a signal does not interrupt. Blocks may overlap, as those of trials that take turns do."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1

    def _note(self, number, frame):
        second_time = self.number is not None and self.second_signal_exits
        if not self._deferring or second_time:
            raise SystemExit(128 + number)
        self.number = number
        if self.second_signal_exits:
            with contextlib.suppress(OSError):  # nobody may listen; print() must not be called within a print()
                os.write(2, b"\nstopping once the state is saved; a second time ends it at once\n")
