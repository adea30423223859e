"""Benchmarks keep nothing among a user's own projects."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

__all__ = ["leave_home"]


def leave_home() -> None:
    """Have projects without a name, and what the dock remembers, in a folder that goes away."""
    folder = tempfile.mkdtemp(prefix="unetseg-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "APPDATA", "LOCALAPPDATA"):
        os.environ[name] = folder
