"""One training shared by several processes: `torchrun --nproc-per-node 2 train.py`, on one machine or many.

Every rank draws the same plan and takes its columns of each batch; gradients are averaged, so that the steps are those
of one process but for batch statistics (on CUDA batch norm is synchronised; on a CPU each rank has its own). Rank 0
alone writes the run's folder. Without torchrun there is one rank, and nothing here does anything.
"""

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from errors import ConfigError
from plan import Plan


class Ranks:
    """rank: of this process, among `world`. restarted: whether torchrun started the ranks anew after one died."""

    def __init__(self):
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def begin(self, device: torch.device, batch_size: int) -> torch.device:
        """Joins the others; returns this rank's device. Raises ConfigError where the batch cannot be shared."""
        if self.world == 1:
            return device
        if batch_size % self.world or batch_size // self.world < 2:
            raise ConfigError(
                f"--batch-size {batch_size} over {self.world} ranks: give a multiple of {self.world}, "
                "two pictures a rank or more"
            )
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)  # NCCL takes the current one
        # After a restart the store still knows the dead ranks' addresses: each start has a prefix of its own in it.
        store, *_ = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # gloo for Python objects
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world)
        return device

    def end(self) -> None:
        """Leaves the others, if they were joined."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.world > 1:
            dist.barrier()

    def told(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        said = [value]
        if self.world > 1:
            dist.broadcast_object_list(said)
        return said[0]

    def any(self, number: int | None) -> int | None:
        """The largest `number` (None for none) of all ranks: so that all stop at the same step."""
        if self.world == 1:
            return number
        largest = torch.tensor([number or 0])  # signals begin at 1
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest) or None

    def wrap(self, model: nn.Module) -> tuple[nn.Module, nn.Module]:
        """(the model of one rank, what its forward passes go through): gradients are averaged on the way back."""
        if self.world == 1:
            return model, model
        if next(model.parameters()).is_cuda:  # torch has it on CUDA alone
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # Dropout hashes a row by its place in the whole batch, of which `columns` takes every world-th.
        model.row_start = self.rank
        model.row_stride = self.world
        return model, nn.parallel.DistributedDataParallel(model)

    def columns(self, plan: Plan) -> Plan:
        """This rank's share of every batch: rows rank, rank + world, ..."""
        if self.world == 1:
            return plan
        mine = {}
        for name, table in plan._asdict().items():
            if table.ndim > 1:  # else a number a step, which all share
                table = np.ascontiguousarray(table[:, self.rank :: self.world])
            mine[name] = table
        return Plan(**mine)

    def mean(self, *tensors: torch.Tensor) -> None:
        """Puts the mean over ranks into float tensors, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)  # gloo has no mean
            tensor /= self.world

    def batches(self, plan: Plan) -> Plan:
        """This rank's batches of an evaluation plan: rank, rank + world, ..."""
        return Plan(*(table[self.rank :: self.world] for table in plan))

    def gathered(self, logits: np.ndarray, plan: Plan) -> np.ndarray:
        """Logits [T*B,C] of the whole evaluation plan on every rank, each batch from the rank that had it."""
        if self.world == 1:
            return logits
        parts = [None] * self.world
        dist.all_gather_object(parts, logits)
        steps, batch = plan.index.shape
        # Batch t is that of rank t % world, as `batches` shared them.
        whole = np.empty((steps, batch, parts[0].shape[1]), np.float32)
        for rank, part in enumerate(parts[:steps]):  # fewer batches than ranks: the last ranks have none
            whole[rank :: self.world] = part.reshape(-1, *whole.shape[1:])
        return whole.reshape(steps * batch, -1)
