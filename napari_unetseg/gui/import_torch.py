"""PyTorch import in a worker thread, without a stall of the window.

Two things stall it: loading the shared libraries while Python holds the GIL, and full garbage
collections, which take longer with the hundreds of thousands of objects of PyTorch. PyTorch's
threads must not wait for each other by spinning when other programs use the cores: on two busy
cores a training step then took six times as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
from pathlib import Path

from napari_unetseg.runtime.llvm_isolation import load_triton_apart


def import_torch() -> None:
    """Import PyTorch and the parts that a training needs; does nothing the second time.

    The libraries are loaded through ``dlopen`` called by ctypes, which releases the GIL. The
    garbage collector is disabled meanwhile, and the new objects are frozen until the job ends.
    """
    if "torch._dynamo" in sys.modules or importlib.util.find_spec("torch") is None:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _load("torch", "lib/libtorch_python.so", "lib/libtorch_python.dylib")
    load_triton_apart()
    _load("triton", "_C/libtriton.so")  # half a gigabyte
    collects = gc.isenabled()
    gc.disable()
    try:
        _import()
        gc.freeze()  # `responsive_window` undoes it
    finally:
        if collects:
            gc.enable()


def _import() -> None:
    import torch

    with contextlib.suppress(ImportError):  # optimisers import it
        import torch._dynamo
    torch.nn.Conv2d(1, 1, 1)


def _load(package: str, *names: str) -> None:
    """Load a package's shared libraries in place; loaded ones are skipped."""
    if sys.platform == "win32":
        return
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for name in names:
            if (library := Path(folder) / name).exists():
                dlopen(os.fsencode(library), os.RTLD_NOW)
