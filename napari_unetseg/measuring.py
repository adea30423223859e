"""What ``unetseg measure`` does: a table of the objects in a mask, in physical units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_unetseg.commands import check_writable, count
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.missing_planes import MissingPlanes
from napari_unetseg.terminal import note, tell

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
    from napari_unetseg.engine.objects import check_mask, check_table, measure_objects
    from napari_unetseg.io.images import open_stack
    from napari_unetseg.io.thresholded import Thresholded

    check_table(output)
    check_writable(output.parent)
    stack = open_stack(mask, axes=axes, spacing=spacing)
    intensities = None
    if image is not None:
        intensities = open_stack(image, series=series, missing_planes=missing_planes)
    if threshold is not None:
        stack = replace(stack, data=Thresholded(stack.data, threshold, ignore))
        ignore = IGNORE
    notes = (*stack.notes, *(intensities.notes if intensities else ()))
    for sentence in (*notes, *check_mask(stack, intensities, kind, ignore)):
        note(sentence)
    rows = measure_objects(output, stack, intensities, kind=kind, dims=dims, ignore=ignore)
    tell(f"{count(len(rows), 'object')} written to {output}.")
