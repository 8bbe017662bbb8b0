"""A function on a GPU that becomes one CUDA graph after a warm-up: the host then only replays it.

The function must read and write tensors that stay where they are and nothing of the host's that changes, and must not
wait for the device. It draws no random number: all graphs share the default generator's state.
"""

import gc
import sys

import torch


class Captured:
    """Calls `step`, first as it is, so that all is compiled and allocated, then as the replay of a CUDA graph of it.

    It is captured on the current stream, which a trial that takes turns with others has to itself: graphs of one stream
    share a cuBLAS workspace, and ending one trial's must not harm another's. The default stream cannot be captured.
    """

    WARM = 3

    def __init__(self, step):
        stream = torch.cuda.current_stream()
        self.stream = torch.cuda.Stream() if stream == torch.cuda.default_stream() else stream
        self.step, self.calls, self.graph = step, 0, None

    def __call__(self):
        if self.calls == self.WARM:
            self._capture()
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
        else:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step()
            torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self):
        """Computes nothing; where memory does not suffice, the step stays eager and stderr is told."""
        gc.collect()  # a dead trial's graph that was collected during this capture would spoil it
        collecting = gc.isenabled()
        gc.disable()
        graph = torch.cuda.CUDAGraph()
        try:  # the outer stream: a capture that fails would leave its own behind as the current one
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=self.stream):
                self.step()
            self.graph = graph
        except RuntimeError as error:  # closing a capture that failed raises too, and hides why it failed
            if not any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__)):
                raise
            print(
                "no memory to capture the step: it runs eagerly, and slower (a smaller --batch-size helps)",
                file=sys.stderr,
            )
        finally:
            if collecting:
                gc.enable()
