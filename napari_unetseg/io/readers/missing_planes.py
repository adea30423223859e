"""Missing planes of a TIFF, as after an aborted acquisition."""

from __future__ import annotations

import itertools
import math
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tifffile

NAMED = 4
"""Maximum number of single planes named in a message."""


class MissingPlanes(StrEnum):
    """How to treat planes that are missing in a file."""

    REFUSE = "refuse"
    """Do not open the file."""
    DROP = "drop"
    """Omit incomplete times, slices or channels."""
    FILL = "fill"
    """Fill the planes with 0."""


def absent_planes(series: tifffile.TiffPageSeries) -> np.ndarray | None:
    """Find the missing planes of a series.

    Returns
    -------
    numpy.ndarray or None
        Booleans over the axes before those of a page; None if no plane is missing.
    """
    from napari_unetseg.io.readers.tiff_pages import (
        is_block,  # the command line's help needs only the enum
    )

    if is_block(series):  # truncation is checked elsewhere
        return None
    page = math.prod(series.keyframe.shape)
    grid: list[int] = []
    planes = math.prod(series.shape) // max(page, 1)
    for size in series.shape:
        if math.prod(grid) >= planes:
            break
        grid.append(size)
    pages = [*itertools.islice(series, planes)]
    absent = [p is None or not any(p.databytecounts) or not any(p.dataoffsets) for p in pages]
    absent += [True] * (planes - len(pages))
    return np.array(absent).reshape(grid) if any(absent) else None


def whole_indices(absent: np.ndarray) -> tuple[int, list[int]]:
    """The axis along which dropping incomplete indices loses the fewest planes, and the rest."""
    kept = []
    for axis in range(absent.ndim):
        others = tuple(a for a in range(absent.ndim) if a != axis)
        kept.append(np.flatnonzero(~absent.any(others)).tolist())
    planes = [len(k) * absent.size // n for k, n in zip(kept, absent.shape, strict=True)]
    axis = int(np.argmax(planes))
    return axis, kept[axis]


def describe_planes(absent: np.ndarray, letters: str) -> str:
    """Describe missing planes by axis and number from 0: ``T 3-9``, then single planes."""
    if not absent.ndim or absent.all():
        return "all"
    whole = []
    for axis in range(absent.ndim):
        others = tuple(a for a in range(absent.ndim) if a != axis)
        whole.append(np.flatnonzero(absent.all(others)))
    planes = [len(w) * absent.size // n for w, n in zip(whole, absent.shape, strict=True)]
    axis, rest = int(np.argmax(planes)), absent.copy()
    rest[(slice(None),) * axis + (whole[axis],)] = False
    named = [f"{letters[axis]} {_ranges(whole[axis].tolist())}"] if len(whole[axis]) else []
    single = np.argwhere(rest)
    named += [
        " ".join(
            f"{a} {n}" for a, n, size in zip(letters, i, absent.shape, strict=False) if size > 1
        )
        for i in single[:NAMED].tolist()
    ]
    return ", ".join(named) + (", …" if len(single) > NAMED else "")


def _ranges(numbers: list[int]) -> str:
    """Runs of numbers, such as ``0, 3-9``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], n]
        else:
            runs.append([n])
    shown = ["–".join(map(str, run)) for run in runs]
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")
