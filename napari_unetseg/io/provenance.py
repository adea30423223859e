"""What a mask file says about how it was made."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import tifffile

__all__ = ["provenance", "read_digest"]

WORDS = "napari-unetseg mask"
NOTED = re.compile(WORDS + " ([0-9a-f]{16})")
PNG_BYTES = 4096
"""The texts of a PNG come before its pixels."""


def provenance(digest: str, model: str) -> str:
    """The line that is noted in a file: a digest of model, image and settings, and the model."""
    return f"{WORDS} {digest} by model {model}"


def read_digest(path: Path) -> str:
    """The digest that is noted in a TIFF or PNG; empty where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError, tifffile.TiffFileError):
        found = NOTED.search(_text(path))
        return found[1] if found else ""
    return ""


def _text(path: Path) -> str:
    if path.suffix.lower() == ".png":
        with path.open("rb") as file:
            return file.read(PNG_BYTES).decode("latin-1")
    with tifffile.TiffFile(path) as tiff:
        imagej = tiff.imagej_metadata or {}
        return str(imagej.get("Info") or tiff.pages.first.description)
