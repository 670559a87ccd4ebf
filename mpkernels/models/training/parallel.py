"""Training on several processes: `torchrun --nproc-per-node N -m mpkernels train ...`.

Every process takes its part of each global batch, so that N processes train as one would with the
same batch size; only batch norm sees a single part (on GPUs it is synchronised). However it is
sharded, state is saved whole, under the parameters' names: a run may go on with another number of
processes, or with one.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

KINDS = ("ddp", "fsdp")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Args:
        rank: number of this process, from 0.
        world: number of processes.
        kind: "ddp" (every process holds all weights), "fsdp" (each holds a share), or "" for a
            single process.
        device: device of this process.
    """

    rank: int = 0
    world: int = 1
    kind: str = ""
    device: str = "cpu"

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network as the processes run it together."""
        if self.kind == "":
            return model
        gpu = self.device.startswith("cuda")
        if gpu:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.kind == "ddp":
            return DistributedDataParallel(model, [self.device] if gpu else None)
        fully_shard(model, mesh=init_device_mesh("cuda" if gpu else "cpu", (self.world,)))
        return model

    def part(self, index: Tensor) -> Tensor:
        """The part of a global batch that belongs to this process."""
        return index.tensor_split(self.world)[self.rank]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def same_buffers(self, model: nn.Module) -> None:
        """Gives all processes the buffers of the first, which are those in a checkpoint."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def sums(self, *values: float) -> list[float]:
        """The sums of the values over all processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums


ALONE = Processes()


def start(kind: str | None, device: str) -> Processes:
    """Joins the processes that torchrun started; this one stays alone if `kind` is None.

    Raises:
        ValueError: the kind needs torchrun, or torchrun needs a kind.
    """
    under = "TORCHELASTIC_RUN_ID" in os.environ
    if kind is None and under and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"parallel must be one of {', '.join(KINDS)} under torchrun, got none")
    if kind is None:
        return Processes(device=device)
    if not under:
        raise ValueError(
            f"parallel {kind} needs several processes: "
            "torchrun --nproc-per-node N -m mpkernels train ..."
        )
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # The prefix keeps restarted processes from the addresses of those that died.
    store, rank, world = next(rendezvous("env://"))
    store = PrefixStore(f"attempt {attempt()}", store)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Processes(dist.get_rank(), dist.get_world_size(), kind, device)


def wait() -> None:
    """Waits for all processes: none may leave while another still talks to it."""
    if dist.is_initialized():
        dist.barrier()


def finish() -> None:
    """Leaves the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
        # A thread of gloo may still hold a tensor of the last exchange. If it lets go of it while
        # Python ends, the process aborts (pytorch/pytorch#190489).
        time.sleep(0.2)


def attempt() -> int:
    """How often torchrun has restarted these processes after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """The context for a part of a batch; gradients are only synchronised after the last part."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def clip(model: nn.Module, largest: float) -> Tensor:
    """Scales the gradients so that their total norm is at most `largest`; returns the old norm."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and optimizer, whole, by parameters' names; all processes must call it."""
    return {
        "model": get_model_state_dict(model, options=_WHOLE),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=_WHOLE),
    }


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `state_of` returned."""
    set_model_state_dict(model, state["model"], options=_WHOLE)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=_WHOLE)
