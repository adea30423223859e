"""Provenance text in mask files."""

from __future__ import annotations

import re

WORDS = "napari-unetseg mask"
NOTED = re.compile(WORDS + " ([0-9a-f]{16})")


def provenance(digest: str, model: str) -> str:
    """The provenance line of a file: digest of model, image and settings, and the model."""
    return f"{WORDS} {digest} by model {model}"


def noted_digest(text: str) -> str:
    """The digest in a file's provenance text; empty if there is none."""
    found = NOTED.search(text)
    return found[1] if found else ""
