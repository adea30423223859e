"""Command line ``unetseg``, without napari and Qt; PyTorch is imported when needed."""

from __future__ import annotations

from napari_unetseg.cli.app import main

__all__ = ["main"]
