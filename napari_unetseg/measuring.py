"""What ``unetseg measure`` does: a table of the objects in a mask, in physical units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.commands import check_writable, count
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.terminal import note, tell

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

__all__ = ["measure"]


def measure(
    mask: Path,
    output: Path,
    image: Path | None = None,
    *,
    kind: LabelKind = LabelKind.FULL,
    dims: int | None = None,
    ignore: int | None = None,
    threshold: float | None = None,
    axes: str | None = None,
    spacing: str | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes = MissingPlanes.REFUSE,
) -> None:
    """Measure the objects of a mask file and write a table, ``.csv`` or ``.parquet``.

    Parameters are those of `objects_of`; ``axes`` and ``spacing`` as for `open_stack`, of the mask,
    ``threshold`` as for `thresholded`; ``series`` and ``missing_planes`` of the image.
    """
    from napari_unetseg.core.labels import IGNORE
    from napari_unetseg.inference.large.object_table import check_mask, check_table, measure_objects
    from napari_unetseg.io.open_image import open_stack

    check_table(output)
    check_writable(output.parent)
    stack = _open_mask(mask, axes, spacing, threshold, ignore)
    intensities = None
    if image is not None:
        intensities = open_stack(image, series=series, missing_planes=missing_planes)
    ignore = ignore if threshold is None else IGNORE
    notes = (*stack.notes, *(intensities.notes if intensities else ()))
    for sentence in (*notes, *check_mask(stack, intensities, kind, ignore)):
        note(sentence)
    rows = measure_objects(output, stack, intensities, kind=kind, dims=dims, ignore=ignore)
    tell(f"{count(len(rows), 'object')} written to {output}.")


def _open_mask(
    path: Path, axes: str | None, spacing: str | None, threshold: float | None, ignore: int | None
) -> Stack:
    """A mask as `read_labels` reads it: the numbers of a palette, and one of equal colours."""
    from napari_unetseg.io.open_image import read_labels

    data, stack = read_labels(path, threshold=threshold, ignore=ignore, axes=axes, spacing=spacing)
    if "S" not in stack.axes:
        return replace(stack, data=data)
    return replace(
        stack,
        data=data,
        axes=stack.grid_axes,
        spacing=stack.grid_spacing,
        units=stack.grid_units,
        translate=stack.grid_translate,
        channels=(),
        colors=(),
    )
