"""Comparison of file names regardless of Unicode normalisation and case.

Names from a Mac are often decomposed Unicode (NFD: ``u`` and ``¨``), those that people type are
composed (NFC: ``ü``); Linux and Windows take the two for different names.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

LABEL_ENDING = re.compile(
    r"[ _.-]+(cp[ _-]?masks?|masks?|labels?|seg|segmentations?|annotations?|strokes|scribbles|"
    r"instances|gt|ground[ _-]?truth)$"
)
"""What other programs and people append to an image's name for its labels; ``cp`` is cellpose."""
SIMPLE_ENDING = re.compile(r"[ _-]+simple$")
"""What is left of ilastik's ``Simple Segmentation``."""
IMAGE_ENDING = re.compile(r"[ _.-]+(images?|img|im|raw)$")
FIRST_CHANNEL = "_0000"
"""What nnU-Net appends to the image of the first channel."""


def same_name(name: str) -> str:
    """What two names have in common that look alike: composed Unicode."""
    return unicodedata.normalize("NFC", name)


def as_stored(path: Path) -> Path:
    """A path as its folders spell it.

    The path itself where it exists or nothing has the same name (`same_name`).
    """
    if str(path).isascii() or path.exists() or path.parent == path:
        return path
    parent = as_stored(path.parent)
    wanted = same_name(path.name)
    try:
        found = [name for name in os.listdir(parent) if same_name(name) == wanted]
    except OSError:
        found = []
    return parent / (found[0] if found else path.name)


def partners(images: Collection[str], labels: Collection[str]) -> dict[str, str]:
    """Stems of images and, for each, that of its labels.

    First those of the same name; of the others those that differ in capitals, in an ending such as
    ``_mask`` or ``_cp_masks`` of the labels or ``_0000`` of the image, and fit no other one.
    """
    by_name = {same_name(label): label for label in labels}
    pairs = {i: by_name[same_name(i)] for i in images if same_name(i) in by_name}
    taken, capitals = set(pairs.values()), {same_name(image).casefold() for image in images}
    likely: dict[str, set[str]] = {}
    for label in labels:
        for name in _names_of_label(label) if label not in taken else ():
            likely.setdefault(name, set()).add(label)
    fits = {
        image: set[str]().union(*(likely.get(n, ()) for n in _names_of_image(image, capitals)))
        for image in images
        if image not in pairs
    }
    wanted = Counter(label for found in fits.values() for label in found)
    for image, found in fits.items():
        if len(found) == 1 and wanted[label := next(iter(found))] == 1:
            pairs[image] = label
    return {image: pairs[image] for image in images if image in pairs}


def _names_of_label(stem: str) -> set[str]:
    name = same_name(stem).casefold()
    base = LABEL_ENDING.sub("", name)
    return {name, base, SIMPLE_ENDING.sub("", base)}


def _names_of_image(stem: str, others: Collection[str]) -> set[str]:
    name = same_name(stem).casefold()
    base = name.removesuffix(FIRST_CHANNEL)
    several = f"{base}_0001" in others  # a single channel of several is no image of its own
    return {name, IMAGE_ENDING.sub("", name), *(() if several else (base,))}
