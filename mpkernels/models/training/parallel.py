"""Training on several processes: `torchrun --nproc-per-node N -m mpkernels train ...`.

They may be started by srun, mpirun or mpiexec too, whose variables say which process this is.

Every process takes its part of each global batch, so that N processes train as one would with the
same batch size; only batch norm sees a single part (on GPUs it is synchronised). However it is
sharded, state is saved whole, under the parameters' names: a run may go on with another number of
processes, or with one.
"""

from __future__ import annotations

import os
import re
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
# Launcher -> variables that hold a process's rank, the number of processes, and its rank on its
# machine, in the order in which they count: mpirun passes on those of a batch job around it.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# A parameter that had no gradient yet has no momentum: it then starts at 0, as it would have.
_PART = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


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


def _variable(name: str, default: str | None = None) -> int:
    text = os.environ.get(name, default)
    if text is None or not text.isdecimal():
        raise ValueError(f"the variable {name} must be a number, got {text!r}")
    return int(text)


def _rendezvous(launcher: str, rank: int, world: int) -> PrefixStore:
    """Meets the other processes.

    Raises:
        ValueError: the variables do not say where.
        ConnectionError: they are not there.
    """
    # Of node[003-007,9],other the first process runs on node003.
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST", ""))
    first = re.match(r"([^,\[\]]+)(?:\[(\d+)[^\[\]]*\])?(?:,|$)", nodes)
    if first:
        os.environ.setdefault("MASTER_ADDR", first[1] + (first[2] or ""))
    for name, what in (("MASTER_ADDR", "host"), ("MASTER_PORT", "a free port on the host")):
        if not os.environ.get(name):
            raise ValueError(
                f"parallel under {launcher} needs the variable {name}: {what} of the first process"
            )
    try:
        store, *_ = next(rendezvous("env://", rank, world))
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(f"the processes do not meet at {place}: {error}") from error
    # The prefix keeps restarted processes from the addresses of those that died.
    return PrefixStore(f"attempt {attempt()}", store)


def start(kind: str | None, device: str) -> Processes:
    """Joins the processes that a launcher started; this one stays alone if `kind` is None.

    Raises:
        ValueError: the kind needs a launcher, or a launcher a kind or a variable.
        ConnectionError: the other processes are not there.
    """
    found = (name for name, held in LAUNCHERS.items() if os.environ.keys() >= {*held[:2]})
    launcher = next(found, "")
    if not launcher and kind is not None:
        raise ValueError(
            f"parallel {kind} needs several processes: "
            "torchrun --nproc-per-node N -m mpkernels train ..., srun or mpirun"
        )
    if not launcher:
        return Processes(device=device)
    of_rank, of_world, of_local = LAUNCHERS[launcher]
    rank, world = _variable(of_rank), _variable(of_world)
    if kind is None:
        # A batch script, which nothing started several times, has srun's but for those of a step.
        several = launcher != "srun" or "SLURM_STEP_NUM_TASKS" in os.environ
        if world > 1 and several:
            kinds = ", ".join(KINDS)
            raise ValueError(f"parallel must be one of {kinds} under {launcher}, got none")
        return Processes(device=device)
    if device == "cuda":
        # Some launchers show each process one GPU alone.
        at = _variable(of_local, str(rank)) % max(1, torch.cuda.device_count())
        device = f"cuda:{at}"
        torch.cuda.set_device(device)
    store = _rendezvous(launcher, rank, world)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Processes(rank, world, kind, device)


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
    if state["optimizer"]["state"]:  # none without momentum
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=_PART)
