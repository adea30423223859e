"""Provenance text in mask files."""

from __future__ import annotations

import re

WORDS = "napari-unetseg mask"
NOTED = re.compile(WORDS + " ([0-9a-f]{16})")


def provenance(digest: str, model: str) -> str:
    """The line that is noted in a file: a digest of model, image and settings, and the model."""
    return f"{WORDS} {digest} by model {model}"


def noted_digest(text: str) -> str:
    """The digest that the text of a file notes; empty where there is none."""
    found = NOTED.search(text)
    return found[1] if found else ""
