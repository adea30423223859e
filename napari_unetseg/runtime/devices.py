"""PyTorch devices and threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch

from napari_unetseg.core.errors import UserError
from napari_unetseg.runtime.cpu import default_threads
from napari_unetseg.runtime.distributed import world
from napari_unetseg.runtime.memory_errors import is_out_of_memory

T = TypeVar("T")


def pick_device(wanted: str) -> torch.device:
    """The device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Under torchrun each process of a machine has a GPU of its own, or all use the CPU.

    Raises
    ------
    UserError
        The wanted device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and world().size == 1,
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name, is_there in there.items() if is_there)
    if not there.get(wanted, False):
        raise UserError(
            f"There is no {wanted} device that PyTorch {torch.__version__} can use here; "
            "choose auto or cpu."
        )
    here = world()
    if wanted != "cuda" or here.local_size == 1:
        return torch.device(wanted)
    if torch.cuda.device_count() < here.local_size:
        raise UserError(
            f"{here.local_size} processes need one GPU each, but there are only "
            f"{torch.cuda.device_count()} here; start one process per GPU, or use --device cpu."
        )
    return torch.device("cuda", here.local_rank)


def device_name(device: torch.device) -> str:
    """Display name: kind of device, and GPU model."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def use_threads(number: int | None) -> int:
    """Set PyTorch's CPU threads for the calling thread; return the number in use."""
    number = number or default_threads()
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
    return number


def release_memory(device: torch.device) -> None:
    """Give cached memory back to the device."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def unless_out_of_memory(device: torch.device, work: Callable[[], T]) -> T | None:
    """The result of work on the device, None where there is not enough memory for it."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory(device)
    return None
