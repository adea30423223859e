"""Errors that mean that memory ran out are known wherever they are spoken of."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import torch

from napari_unetseg.core.errors import UserError
from napari_unetseg.runtime.memory_errors import is_out_of_memory

SAID = {
    "GPU": torch.OutOfMemoryError("Tried to allocate 2.00 GiB."),
    "GPU, plain": RuntimeError("CUDA error: out of memory"),
    "Apple": RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    "CPU on Linux": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    "CPU on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
    "Python": MemoryError(),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
OTHERS = (
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("this file says: out of memory"),
    UserError("There is not enough memory for even the smallest tile."),
    OSError(errno.ENOSPC, "No space left on device"),
)


@pytest.mark.parametrize("error", SAID.values(), ids=SAID)
def test_memory_that_ran_out_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_others(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_pytorch_says_here_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


def test_asking_needs_no_pytorch() -> None:
    code = (
        "from napari_unetseg.runtime.memory_errors import is_out_of_memory\n"
        "import sys\n"
        "assert is_out_of_memory(MemoryError()) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
