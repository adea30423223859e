"""Writing outlines of the objects of a mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.object_structures import rim_numbers, structures_of
from napari_unetseg.io.outline_formats import OUTLINE_FORMATS, Outline, OutlineFormat
from napari_unetseg.io.pixel_outlines import outlines_of


def outline_format_of(path: Path) -> OutlineFormat:
    """The format for a file name, by suffix; `UserError` if there is none."""
    for chosen in OUTLINE_FORMATS:
        if path.name.lower().endswith(chosen.suffixes):
            return chosen
    raise UserError(
        f"{path.name} has an unknown suffix; use .zip for ROIs of ImageJ or .geojson for QuPath."
    )


def write_outlines(
    path: str | Path,
    ids: Any,
    *,
    axes: str,
    mask: Any | None = None,
    structures: Sequence[Structure] = (),
    rim_objects: bool = True,
    dims: int | None = None,
    annotations: bool = False,
    scratch: Path | None = None,
) -> int:
    """Write the outlines of objects: ``.zip`` for ImageJ, ``.geojson`` for QuPath.

    Outlines run along the edges of pixels (see `outlines_of`), in pixels from the upper left corner
    of the image. An object of a volume has an outline in each of its planes.

    Parameters
    ----------
    path
        The file; it is replaced only after everything was written.
    ids
        Array-like of non-negative integers, read a plane at a time: the number of an object, 0
        elsewhere.
    axes
        One letter for each axis, ending in YX. Planes are at the positions of T, Z and C.
    mask
        Structures of the same shape: an object has the one that most of its pixels in a plane have.
    structures
        Names and colours. Without a mask the first one is that of all objects.
    rim_objects
        False leaves out objects that touch the rim in Y or X, of volumes in any plane.
    dims
        2 for objects of planes, 3 for objects of volumes; by default volumes where there is a Z.
    annotations
        Annotations of QuPath, which can be edited, instead of detections, of which it shows many.
    scratch
        A folder for temporary files, as for `atomic_path`.

    Returns
    -------
    int
        How many outlines were written.

    Raises
    ------
    UserError
        The suffix is unknown, the numbers are no objects, the shapes differ, the disk is full or
        the folder cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    chosen = outline_format_of(path)
    _check(path, ids, axes, mask)
    dims = dims or (3 if axes.endswith("ZYX") else 2)
    found = _outlines(ids, axes, mask, structures, None if rim_objects else dims)
    with atomic_path(path, scratch) as temporary:
        return chosen.write(temporary, found, annotations)


def _check(path: Path, ids: Any, axes: str, mask: Any | None) -> None:
    if np.dtype(ids.dtype).kind not in "bui":
        raise UserError(f"{path.name} needs whole numbers of objects, not {ids.dtype}.")
    if len(axes) != len(ids.shape) or not axes.endswith("YX"):
        raise UserError(f"An array of shape {tuple(ids.shape)} cannot have the axes {axes}.")
    if strange := "".join(sorted(set(axes[:-2]) - set("TZC"))):
        raise UserError(
            f"Outlines have planes along T, Z and C only, not {strange}; give these axes other "
            "names, or write the outlines of a part of the image."
        )
    if mask is not None and tuple(mask.shape) != tuple(ids.shape):
        raise UserError(
            f"The objects have the shape {tuple(ids.shape)}, but their structures "
            f"{tuple(mask.shape)}; give two masks of the same image."
        )


def _outlines(
    ids: Any, axes: str, mask: Any | None, structures: Sequence[Structure], rim_dims: int | None
) -> Iterator[Outline]:
    """Outlines plane by plane; with ``rim_dims`` without objects of so many axes at the rim."""
    known = {s.number: s for s in structures}
    usual = next(iter(structures), None) if mask is None else None
    for index, plane in _planes(ids, rim_dims):
        votes = {} if mask is None else structures_of(plane, np.asarray(mask[index]))
        place = dict(zip(axes[:-2], index, strict=True))
        for number, polygons in outlines_of(plane).items():
            voted = votes.get(number)
            one = (known.get(voted) or Structure(voted)) if voted else usual
            yield Outline(number, polygons, one, place)


def _planes(ids: Any, rim_dims: int | None) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Index and objects of each plane."""
    shape = tuple(int(n) for n in ids.shape)
    dims = rim_dims or 2
    for lead in np.ndindex(shape[:-dims]):
        inside = [(*lead, *rest) for rest in np.ndindex(shape[len(lead) : -2])]
        at_rim = []
        if rim_dims is not None:
            at_rim = [rim_numbers(_plane(ids, index)) for index in inside]
        for index in inside:
            plane = _plane(ids, index)
            if at_rim:
                plane = np.where(np.isin(plane, np.concatenate(at_rim)), 0, plane)
            yield index, plane


def _plane(ids: Any, index: tuple[int, ...]) -> np.ndarray:
    plane = np.asarray(ids[index])
    return np.maximum(plane, 0) if plane.dtype.kind == "i" else plane
