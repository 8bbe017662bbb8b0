"""One training shared by several processes: `torchrun --nproc-per-node 2 train.py`, on one machine or many.

Every rank draws the same plan and takes its columns of each batch; gradients are averaged, so that the steps are those
of one process but for batch statistics (on CUDA batch norm is synchronised; on a CPU each rank has its own). Rank 0
alone writes the run's folder. Without torchrun there is one rank, and nothing here does anything.
"""

import os

import numpy as np
import torch
import torch.distributed as dist

from errors import ConfigError
from plan import Plan


class Ranks:
    """rank: of this process, among `world`. restarted: whether torchrun started the ranks anew after one died."""

    def __init__(self):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def begin(self, device, batch_size):
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
            torch.cuda.set_device(device)
        store, *_ = next(dist.rendezvous("env://"))  # it still knows the dead ranks' addresses
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world)
        return device

    def end(self):
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self):
        if self.world > 1:
            dist.barrier()

    def told(self, value):
        """Rank 0's `value`, on every rank."""
        said = [value]
        if self.world > 1:
            dist.broadcast_object_list(said)
        return said[0]

    def any(self, number):
        """The largest `number` (None for none) of all ranks: so that all stop at the same step."""
        if self.world == 1:
            return number
        largest = torch.tensor([number or 0])
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest) or None

    def wrap(self, model):
        """(the model of one rank, what its forward passes go through): gradients are averaged on the way back."""
        if self.world == 1:
            return model, model
        if next(model.parameters()).is_cuda:
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.first = self.rank  # of the rows of a batch: dropout hashes the row of the whole batch
        model.apart = self.world
        return model, torch.nn.parallel.DistributedDataParallel(model)

    def columns(self, plan):
        """This rank's share of every batch: rows rank, rank + world, ..."""
        if self.world == 1:
            return plan
        return Plan(*(v if v.ndim == 1 else np.ascontiguousarray(v[:, self.rank :: self.world]) for v in plan))

    def whole_batches(self, rows):
        """[T,B] of all ranks, from this rank's columns of every batch [T,B/world]."""
        if self.world == 1:
            return rows
        found = [None] * self.world
        dist.all_gather_object(found, rows)
        whole = np.empty((len(rows), rows.shape[1] * self.world), rows.dtype)
        for rank, part in enumerate(found):
            whole[:, rank :: self.world] = part
        return whole

    def mean(self, *tensors):
        """Puts the mean over ranks into float tensors, in place."""
        for t in tensors if self.world > 1 else ():
            dist.all_reduce(t)
            t /= self.world

    def batches(self, plan):
        """This rank's batches of an evaluation plan: rank, rank + world, ..."""
        return Plan(*(v[self.rank :: self.world] for v in plan))

    def gathered(self, logits, plan):
        """Logits [T*B,C] of the whole evaluation plan on every rank, each batch from the rank that had it."""
        if self.world == 1:
            return logits
        found = [None] * self.world
        dist.all_gather_object(found, logits)
        steps, batch = plan.index.shape
        whole = np.empty((steps, batch, found[0].shape[1]), np.float32)
        for rank, part in enumerate(found[:steps]):  # fewer batches than ranks: the last ranks have none
            whole[rank :: self.world] = part.reshape(-1, *whole.shape[1:])
        return whole.reshape(steps * batch, -1)
