"""A function on a GPU that becomes one CUDA graph after a warm-up: the host then only replays it.

The function must read and write tensors that stay where they are and nothing of the host's that changes, and must not
wait for the device. It draws no random number: all graphs share the default generator's state.
"""

import gc
import sys
from collections.abc import Callable

import torch


class Captured:
    """Calls `step`, first as it is, so that all is compiled and allocated, then as the replay of a CUDA graph of it.

    It is captured on the current stream, which a trial that takes turns with others has to itself: graphs of one stream
    share a cuBLAS workspace, and ending one trial's must not harm another's. The default stream cannot be captured:
    instead of it there is a stream of the graph's own.
    """

    WARM = 3  # calls before the capture

    def __init__(self, step: Callable[[], None]):
        self.step = step
        self.calls = 0
        self.graph = None
        self.stream = torch.cuda.current_stream()
        if self.stream == torch.cuda.default_stream():
            self.stream = torch.cuda.Stream()

    def __call__(self) -> None:
        if self.calls == self.WARM:
            self._capture()
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
            return
        # What runs before and after is on the current stream: each waits for the other.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step()
        torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self):
        """Computes nothing; where memory does not suffice, the step stays eager and stderr is told."""
        # A capture that fails would leave its stream behind as the current one: the outer context puts it back.
        outer = torch.cuda.stream(torch.cuda.current_stream())
        gc.collect()  # a dead trial's graph that was collected during this capture would spoil it
        collecting = gc.isenabled()
        gc.disable()
        graph = torch.cuda.CUDAGraph()
        try:
            with outer, torch.cuda.graph(graph, stream=self.stream):
                self.step()
            self.graph = graph  # only a whole one is replayed
        except RuntimeError as error:
            # Closing a capture that failed raises too, and hides why it failed.
            causes = (error, error.__context__)
            if not any(isinstance(cause, torch.OutOfMemoryError) for cause in causes):
                raise
            print(
                "no memory to capture the step: it runs eagerly, and slower (a smaller --batch-size helps)",
                file=sys.stderr,
            )
        finally:
            if collecting:
                gc.enable()
