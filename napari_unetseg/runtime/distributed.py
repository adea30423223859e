"""Several processes that train one model together, as torchrun starts them.

Each process draws its share of the samples of a step. What a loss is made of is summed over all of
them, and so are the gradients, so that a step is that of one process with all the samples. Whatever
depends on time or on people is decided by the first process and told to the others.

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
    from torch import Tensor

__all__ = ["Place", "Team", "place"]

PATIENCE = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is, of how many; ``local_…`` counts those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place() -> Place:
    """The place that torchrun gave to this process; the only one without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


class Team:
    """The processes of one training, seen from one of them. All call the same methods in turn.

    Parameters
    ----------
    device
        Where this process computes. Sums go over nccl between GPUs, else over gloo.

    Raises
    ------
    TrainingError
        By any method: another process cannot be reached any more.
    """

    def __init__(self, device: torch.device) -> None:
        self.place, self.device = place(), device
        if self.alone:
            return
        import torch
        from torch import distributed

        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            with _reached():
                distributed.init_process_group(backend, timeout=PATIENCE)
            atexit.register(distributed.destroy_process_group)  # it cannot be started twice

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.place.size == 1

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.place.size

    @property
    def leads(self) -> bool:
        """Whether this process decides and speaks."""
        return self.place.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's to do."""
        return items[self.place.rank :: self.place.size]

    def sum(self, part: Tensor) -> Tensor:
        """The sum over all processes, without a gradient."""
        total = part.detach().clone()
        if not self.alone:
            with _reached():
                _distributed().all_reduce(total)
        return total

    def joint(self, part: Tensor) -> Tensor:
        """The sum over all processes; its gradient goes to this process's own part.

        The gradients of what is computed from it are then to be summed with `sum_gradients`.
        """
        return part if self.alone else self.sum(part) + (part - part.detach())

    def gradients(self, parameters: Iterable[Tensor]) -> Tensor | None:
        """The gradients in one row, to be summed; None where there is nobody else."""
        if self.alone:
            return None
        import torch

        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    def sum_gradients(self, row: Tensor | None, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients, given as `gradients` does, by their sums over all processes."""
        if row is None:
            return
        import torch

        found = [p.grad for p in parameters if p.grad is not None]
        with _reached():
            _distributed().all_reduce(row)
        for gradient, new in zip(found, torch.split(row, [g.numel() for g in found]), strict=True):
            gradient.copy_(new.view_as(gradient))

    def told(self, *numbers: float) -> tuple[float, ...]:
        """What the first process says; the others' numbers are only that many."""
        if self.alone:
            return numbers
        import torch

        said = torch.tensor(numbers, dtype=torch.float64)
        self.spread([said])
        return tuple(said.tolist())

    def told_text(self, text: str) -> str:
        """What the first process says in words; what the others say is not looked at."""
        if self.alone:
            return text
        import torch

        data = text.encode()
        row = torch.zeros(int(self.told(len(data))[0]), dtype=torch.uint8)
        if self.leads:
            row = torch.tensor(list(data), dtype=torch.uint8)
        self.spread([row])
        return row.numpy().tobytes().decode()

    def check_alike(self, facts: Iterable[str]) -> None:
        """Raise `TrainingError` where these are not what they are in the first process."""
        digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=6).digest()
        own = int.from_bytes(digest, "big")  # 48 bits, as a float64 can hold
        if self.told(own) != (own,):
            raise TrainingError(
                f"Process {self.place.rank} reads other images, labels or options than process 0; "
                "give all processes the same files and the same command."
            )

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of the first."""
        if self.alone:
            return
        with _reached():
            for tensor in tensors:
                whole = tensor.contiguous()
                _distributed().broadcast(whole, 0)
                tensor.copy_(whole)

    def attempt(self, work: Callable[[], T]) -> T:
        """Do what may need too much memory; where that fails in one process, it does in all."""
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
        failures = self.sum(torch.tensor(float(failure is not None)))
        if failures:
            raise failure or MemoryError("Another process of the training is out of memory.")
        return result


def _distributed() -> Any:
    from torch import distributed

    return distributed


@contextmanager
def _reached() -> Iterator[None]:
    """Say in a sentence that another process is gone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingError(
            "Another process of this training ended or cannot be reached "
            f"({line.rstrip('.')}); see what it said, and start again."
        ) from error
