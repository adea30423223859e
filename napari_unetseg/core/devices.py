"""Devices, threads and what being out of memory looks like."""

from __future__ import annotations

import contextlib
import os

import torch

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.parallel import place

__all__ = ["default_threads", "device_name", "is_out_of_memory", "pick_device", "use_threads"]


def pick_device(wanted: str) -> torch.device:
    """The device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Of several processes of this machine each has a GPU of its own, or all use the CPU.

    Raises
    ------
    UserError
        The wanted device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and place().size == 1,
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name, is_there in there.items() if is_there)
    if not there.get(wanted, False):
        raise UserError(
            f"There is no {wanted} device that PyTorch {torch.__version__} can use here; "
            "choose auto or cpu."
        )
    here = place()
    if wanted != "cuda" or here.local_size == 1:
        return torch.device(wanted)
    if torch.cuda.device_count() < here.local_size:
        raise UserError(
            f"{here.local_size} processes need a GPU each, and there are "
            f"{torch.cuda.device_count()} here; start as many as there are GPUs, or with "
            "--device cpu."
        )
    return torch.device("cuda", here.local_rank)


def device_name(device: torch.device) -> str:
    """A name to show: the kind of device, and which GPU it is."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def default_threads() -> int:
    """One thread less than there are cores, so that the window stays alive.

    Several processes of a machine share its cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    share = place().local_size
    return max(1, cores // share if share > 1 else cores - 1)


def use_threads(number: int | None) -> int:
    """Set PyTorch's CPU threads for the calling thread; return the number in use."""
    number = number or default_threads()
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
    return number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def release_memory(device: torch.device) -> None:
    """Give cached memory back to the device."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
