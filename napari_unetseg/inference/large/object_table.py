"""Object measurements of a mask, in physical units."""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.atomic_write import atomic_path
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_checks import (
    check_not_swapped,
    check_values,
    notes_of,
    summarise_values,
)
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.object_structures import structures_of, without_rim_objects
from napari_unetseg.inference.large.mask_numbers import no_mask, whole_numbers

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

SHAPE = ("equivalent_diameter_area", "axis_major_length")
SIZES = {2: "area", 3: "volume"}
TABLE_SUFFIXES = (".csv", ".parquet")

Row = dict[str, Any]


def check_table(path: Path) -> None:
    """Refuse a table that is neither ``.csv`` nor ``.parquet``, or that cannot be written."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UserError(f"{path.name} has an unknown suffix; use .csv or .parquet.")
    if path.suffix.lower() == ".parquet":
        _parquet()


def check_mask(
    mask: Stack,
    image: Stack | None = None,
    kind: LabelKind = LabelKind.FULL,
    ignore: int | None = None,
) -> tuple[str, ...]:
    """Check a mask from any source.

    Returns
    -------
    tuple of str
        Notices on doubtful values.

    Raises
    ------
    UserError
        It is an image, or a mask with blurred edges.
    """
    if mask.data.dtype.kind not in "buif" or mask.channel_axis is not None:
        raise UserError(no_mask(mask))
    name = f"The labels of {mask.name}"
    found = summarise_values(mask.data, kind, name, ignore)
    if image is not None:
        check_not_swapped(image, found)
    numbers = {value: count for value, count in found.counts.items() if value > 0}
    check_values(numbers, LabelKind.INSTANCES, name, look=found.look)
    below = min(found.counts, default=0)
    left_out = (
        (f"{name} hold {below}, which is not an object and is left out.",) if below < 0 else ()
    )
    return (*notes_of([found]), *left_out)


def measure_objects(
    table: Path,
    mask: Stack,
    image: Stack | None = None,
    *,
    kind: LabelKind = LabelKind.FULL,
    dims: int | None = None,
    ignore: int | None = None,
    structures: Stack | int = 1,
    rim_objects: bool = True,
    scratch: Path | None = None,
) -> list[Row]:
    """Measure objects and write their table; see `objects_of`, `check_table` and `atomic_path`."""
    check_table(table)
    columns = _columns(mask, image, _dims(mask, dims))
    rows = list(
        objects_of(
            mask,
            image,
            kind=kind,
            dims=dims,
            ignore=ignore,
            structures=structures,
            rim_objects=rim_objects,
        )
    )
    _write(table, columns, rows, scratch)
    return rows


def objects_of(
    mask: Stack,
    image: Stack | None = None,
    *,
    kind: LabelKind = LabelKind.FULL,
    dims: int | None = None,
    ignore: int | None = None,
    structures: Stack | int = 1,
    rim_objects: bool = True,
) -> Iterator[Row]:
    """Measure objects, a plane or volume in memory at a time.

    Parameters
    ----------
    mask
        Whole numbers. ``full``: connected components of each structure; ``instances``: every number
        is an object. Numbers up to 0 are background.
    image
        Of the same grid; the mean of each channel in each object is measured, over its finite
        pixels.
    kind
        ``full`` or ``instances``.
    dims
        2: planes; 3: volumes; default volumes where there is a Z axis.
    ignore
        A number that is no object.
    structures
        Of ``instances``: a mask of structures of the same grid, of which an object has the one that
        most of its voxels have (0 where none has any); or the number of all objects' structure.
    rim_objects
        False leaves out objects that touch the rim of the image in Y or X; see
        `without_rim_objects`.

    Yields
    ------
    dict
        Index along each leading axis, structure, object, size, place and intensities of an object;
        lengths, areas and volumes in the mask's units.

    Raises
    ------
    UserError
        The mask holds no whole numbers, or the image or the structures are of another grid.
    """
    if mask.data.dtype.kind not in "buif" or mask.channel_axis is not None:
        raise UserError(no_mask(mask))
    _check_grids(mask, image, structures)
    dims = _dims(mask, dims)
    for plane in mask.planes(dims):
        labels = whole_numbers(mask, mask.read(plane, mask.whole(dims))[0], ignore)
        pixels = None if image is None else image.read(plane, image.whole(dims))
        index = dict(zip(_leading(mask, dims), plane, strict=True))
        voted: dict[int, int] = {}
        if not isinstance(structures, int):
            voted = structures_of(labels, structures.read(plane, structures.whole(dims))[0])
        for structure, every in _objects(labels, kind, structures):
            objects = every if rim_objects else without_rim_objects(every)
            for row in _measured(objects, pixels, mask, image, dims):
                yield {**index, "structure": voted.get(row["object"], structure), **row}


def _check_grids(mask: Stack, image: Stack | None, structures: Stack | int) -> None:
    """Refuse an image or structures of another grid."""
    if image is not None and image.grid_shape != mask.grid_shape:
        raise UserError(
            f"{image.name} has the shape {image.grid_shape} and the mask {mask.grid_shape}; give "
            "the image that the mask belongs to."
        )
    if not isinstance(structures, int) and structures.grid_shape != mask.grid_shape:
        raise UserError(
            f"The structures have the shape {structures.grid_shape} and the objects "
            f"{mask.grid_shape}; give two masks of the same image."
        )


def _dims(mask: Stack, wanted: int | None) -> int:
    if wanted is None:
        return 3 if mask.grid_axes.endswith("ZYX") else 2
    mask.check_dims(wanted)
    return wanted


def _leading(mask: Stack, dims: int) -> list[str]:
    return [a.lower() for a in mask.grid_axes[:-dims]]


def _objects(
    labels: np.ndarray, kind: LabelKind, structures: Stack | int
) -> Iterator[tuple[int, np.ndarray]]:
    """Each structure and its objects, numbered from 1 or as in the mask."""
    from skimage.measure import label

    if kind is LabelKind.INSTANCES:
        yield structures if isinstance(structures, int) else 0, labels.astype(np.int64)
        return
    for number in np.unique(labels):
        if number:
            same = labels == number
            yield int(number), label(same, connectivity=labels.ndim)  # type: ignore[no-untyped-call]


def _measured(
    objects: np.ndarray, pixels: np.ndarray | None, mask: Stack, image: Stack | None, dims: int
) -> Iterator[Row]:
    """A row for each object."""
    from skimage.measure import regionprops_table

    spacing, unit = _scale(mask, dims)
    table = regionprops_table(  # type: ignore[no-untyped-call]
        objects, properties=["label", "area", *SHAPE, "centroid"], spacing=spacing
    )
    for channel, values in enumerate(() if pixels is None else pixels):
        table[f"intensity_mean-{channel}"] = _means(values, objects, table["label"])
    names = _names(image, dims, unit)
    for values in zip(*(table[key] for key in names), strict=True):
        yield {
            name: v.item() if isinstance(v, np.generic) else v
            for name, v in zip(names.values(), values, strict=True)
        }


def _means(values: np.ndarray, objects: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean of the finite values in each object; NaN where there is none."""
    from scipy.ndimage import sum_labels

    finite = np.isfinite(values)
    sums = sum_labels(np.where(finite, values, 0).astype(np.float64), objects, numbers)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / sum_labels(finite, objects, numbers))


def _scale(mask: Stack, dims: int) -> tuple[tuple[float, ...], str]:
    """Size of a voxel and its unit; voxels where the axes have different units."""
    units = mask.grid_units[-dims:]
    if len(set(units)) == 1 and units[0] != "pixel":
        return mask.spatial_spacing(dims), units[0]
    return (1.0,) * dims, "pixel"


def _names(image: Stack | None, dims: int, unit: str) -> Mapping[str, str]:
    """Columns of scikit-image and of the table."""
    power = {2: "²", 3: "³"}[dims]
    names = {"label": "object", "area": f"{SIZES[dims]} ({unit}{power})"}
    names |= {"equivalent_diameter_area": f"equivalent diameter ({unit})"}
    names |= {"axis_major_length": f"major axis ({unit})"}
    names |= {f"centroid-{i}": f"{a} ({unit})" for i, a in enumerate("zyx"[-dims:])}
    for i, channel in enumerate(image.channels if image is not None else ()):
        names[f"intensity_mean-{i}"] = f"mean of {channel}"
    return names


def _columns(mask: Stack, image: Stack | None, dims: int) -> list[str]:
    names = _names(image, dims, _scale(mask, dims)[1])
    return [*_leading(mask, dims), "structure", *names.values()]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row], scratch: Path | None) -> None:
    """Write the table atomically."""
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, columns, rows, scratch)
        return
    with (
        atomic_path(path, scratch) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows({name: _plain(v) for name, v in row.items()} for row in rows)


def _plain(value: Any) -> Any:
    """Six significant digits; None for NaN."""
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


def _write_parquet(
    path: Path, columns: Sequence[str], rows: Sequence[Row], scratch: Path | None
) -> None:
    arrow, parquet = _parquet()
    table = arrow.table({name: [row[name] for row in rows] for name in columns})
    with atomic_path(path, scratch) as temporary:
        parquet.write_table(table, temporary)


def _parquet() -> tuple[Any, Any]:
    with suppress(ImportError):
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    raise UserError(
        "Writing .parquet needs the package pyarrow: `pip install pyarrow`, or write a .csv."
    )
