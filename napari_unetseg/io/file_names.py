"""Comparison of file names regardless of Unicode normalisation and case.

Names from a Mac are often decomposed Unicode (NFD: ``u`` and ``¨``), typed ones are composed (NFC:
``ü``); Linux and Windows treat the two as different names.
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
"""Suffixes of labels that programs and users append to an image's name; ``cp`` is cellpose."""
SIMPLE_ENDING = re.compile(r"[ _-]+simple$")
"""The part of ilastik's ``Simple Segmentation`` that remains."""
IMAGE_ENDING = re.compile(r"[ _.-]+(images?|img|im|raw)$")
FIRST_CHANNEL = "_0000"
"""The suffix that nnU-Net appends to the image of the first channel."""


def same_name(name: str) -> str:
    """Normal form of a name for comparison: composed Unicode."""
    return unicodedata.normalize("NFC", name)


def as_stored(path: Path) -> Path:
    """A path with the spelling used on disk.

    The path is unchanged if it exists or if no file has the same name (`same_name`).
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
    """Map stems of images to stems of their labels.

    Equal names are paired first; then unambiguous ones that differ in case, or in a suffix such as
    ``_mask`` or ``_cp_masks`` of the labels or ``_0000`` of the image.
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
    several = f"{base}_0001" in others  # one channel of several is not an image of its own
    return {name, IMAGE_ENDING.sub("", name), *(() if several else (base,))}
