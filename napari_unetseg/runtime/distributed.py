"""Data-parallel training in the processes that torchrun starts (`torch.distributed`).

Without torchrun nothing here imports or starts `torch.distributed`.
"""

from __future__ import annotations

import atexit
import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is, of how many; ``local_…`` counts those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def world() -> World:
    """Rank and number of processes as torchrun set them; rank 0 of one without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return World()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return World(*(int(os.environ[name]) for name in names))


class ProcessGroup:
    """The processes of one training; every process calls the same methods in the same order.

    Parameters
    ----------
    device
        Where this process computes. GPUs exchange tensors by nccl, CPUs by gloo.

    Raises
    ------
    TrainingError
        By any method: another process ended or cannot be reached.
    """

    def __init__(self, device: torch.device) -> None:
        self.world, self.device = world(), device
        if self.alone:
            return
        import torch
        from torch import distributed

        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            with self.connected():
                distributed.init_process_group(backend, timeout=TIMEOUT)
            atexit.register(distributed.destroy_process_group)  # it cannot be started twice

    @property
    def alone(self) -> bool:
        """Whether there is a single process."""
        return self.world.size == 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which decides, reports and writes files."""
        return self.world.rank == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Every ``size``-th of the items, beginning with this rank's."""
        return items[self.world.rank :: self.world.size]

    def wrap(self, network: nn.Module, *, sync_batchnorm: bool) -> nn.Module:
        """The network as `DistributedDataParallel`, with the weights of rank 0; itself if alone.

        ``sync_batchnorm`` replaces its batch norms by `SyncBatchNorm`, where the device has it.
        """
        if self.alone:
            return network
        from torch import nn

        if sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        devices = [self.device] if self.device.type == "cuda" else None
        with self.connected():
            return nn.parallel.DistributedDataParallel(
                network, devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def all_reduce(self, part: Tensor) -> Tensor:
        """The sum over all processes, without a gradient."""
        total = part.detach().clone()
        if not self.alone:
            with self.connected():
                _distributed().all_reduce(total)
        return total

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of rank 0."""
        if self.alone:
            return
        with self.connected():
            for tensor in tensors:
                whole = tensor.contiguous()
                _distributed().broadcast(whole, 0)
                tensor.copy_(whole)

    def broadcast_numbers(self, *numbers: float) -> tuple[float, ...]:
        """The numbers of rank 0; those of other ranks are only as many."""
        if self.alone:
            return numbers
        import torch

        row = torch.tensor(numbers, dtype=torch.float64)
        self.broadcast([row])
        return tuple(row.tolist())

    def broadcast_text(self, text: str) -> str:
        """The text of rank 0; no pickle goes between processes, as `broadcast_object_list` has."""
        if self.alone:
            return text
        import torch

        data = text.encode()
        row = torch.zeros(int(self.broadcast_numbers(len(data))[0]), dtype=torch.uint8)
        if self.is_main:
            row = torch.tensor(list(data), dtype=torch.uint8)
        self.broadcast([row])
        return row.numpy().tobytes().decode()

    def require_same(self, facts: Iterable[str]) -> None:
        """Raise `TrainingError` where these are not what they are in rank 0."""
        digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=6).digest()
        own = int.from_bytes(digest, "big")  # 48 bits, as a float64 can hold
        if self.broadcast_numbers(own) != (own,):
            raise TrainingError(
                f"Process {self.world.rank} reads other images, labels or options than process 0; "
                "give all processes the same files and the same command."
            )

    def run_together(self, work: Callable[[], T]) -> T:
        """Do work without communication; out of memory in one process is raised in all.

        So none waits in the next collective for one that begins again with a smaller step.
        """
        if self.alone:
            return work()
        import torch

        failure: BaseException | None = None
        try:
            result = work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error
        if self.all_reduce(torch.tensor(float(failure is not None))):
            raise failure or MemoryError("Another process of the training is out of memory.")
        return result

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise a sentence where work that communicates fails; the others can only end then."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self.alone:
                raise
            if is_out_of_memory(error):
                raise TrainingError(
                    "There is not enough memory for a step, and the other processes wait for its "
                    "gradients; start again with a smaller --batch or --patch."
                ) from error
            if not isinstance(error, _distributed().DistError) and "gloo" not in str(error):
                raise
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise TrainingError(
                "Another process of this training ended or cannot be reached "
                f"({line.rstrip('.')}); see what it said, and start again."
            ) from error


def _distributed() -> Any:
    from torch import distributed

    return distributed
