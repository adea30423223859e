"""The command line, ``unetseg``: no napari, no Qt, and PyTorch only when a command needs it."""

from __future__ import annotations

from napari_unetseg.cli.app import main

__all__ = ["main"]
