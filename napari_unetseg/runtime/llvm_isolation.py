"""Isolation of the LLVM libraries of Triton (PyTorch) and Mesa (OpenGL)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path


def load_triton_apart() -> bool:
    """Load Triton's library so that it uses its own LLVM, where another LLVM is there already.

    Mesa's OpenGL, which draws napari's window on many Linux machines, brings an LLVM whose symbols
    are visible to all libraries loaded later. At its first optimiser PyTorch imports Triton, which
    holds an LLVM of another version; bound to Mesa's, it ends the process with a segmentation
    fault. Loaded with ``RTLD_DEEPBIND`` it sees its own symbols first, and the later import finds
    it loaded. Call this before anything imports ``torch._dynamo``: an optimiser and torchvision do.

    Returns
    -------
    bool
        Whether the library was loaded here; False where there is nothing to keep apart.
    """
    if "triton" in sys.modules or not hasattr(os, "RTLD_DEEPBIND") or not _has_llvm():
        return False
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return False
    library = Path(next(iter(spec.submodule_search_locations))) / "_C" / "libtriton.so"
    dlopen = ctypes.CDLL(None).dlopen  # called so, it lets go of Python's lock
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    return bool(dlopen(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND))


def _has_llvm() -> bool:
    """Tell whether this process holds a shared LLVM."""
    try:
        return "libLLVM" in Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return False
