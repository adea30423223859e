"""PyTorch's Triton beside the LLVM of Mesa's OpenGL."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ADAM_BESIDE_LLVM = """
import ctypes, sys
ctypes.CDLL({library!r}, ctypes.RTLD_GLOBAL)  # as Mesa does
if {apart}:
    from napari_unetseg.runtime.llvm_isolation import load_triton_apart
    assert load_triton_apart()
import torch
weight = torch.nn.Parameter(torch.ones(3))
optimiser = torch.optim.Adam([weight])
weight.sum().backward()
optimiser.step()
import triton
print("alive")
"""


def find_llvm() -> str:
    """Return a shared LLVM of this system, or skip."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("this PyTorch has no Triton")
    folders = (Path("/usr/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))
    libraries = sorted(library for folder in folders for library in folder.glob("libLLVM*.so*"))
    if not libraries:
        pytest.skip("this system has no shared LLVM")
    return str(libraries[-1])


def test_an_optimiser_survives_beside_mesas_llvm() -> None:
    program = ADAM_BESIDE_LLVM.format(library=find_llvm(), apart=True)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "alive"


def test_without_another_llvm_nothing_is_loaded() -> None:
    program = "from napari_unetseg.runtime.llvm_isolation import load_triton_apart as f; print(f())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
