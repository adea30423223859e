"""What ``unetseg measure`` does: a table of the objects in a mask, in physical units."""

from __future__ import annotations

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
    axes: str | None = None,
    spacing: str | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes = MissingPlanes.REFUSE,
) -> None:
    """Measure the objects of a mask file and write a table, ``.csv`` or ``.parquet``.

    Parameters are those of `objects_of`; ``axes`` and ``spacing`` as for `open_stack`, of the mask,
    and ``series`` and ``missing_planes`` of the image.
    """
    from napari_unetseg.engine.objects import check_table, measure_objects
    from napari_unetseg.io.images import open_stack

    check_table(output)
    check_writable(output.parent)
    stack = open_stack(mask, axes=axes, spacing=spacing)
    intensities = None
    if image is not None:
        intensities = open_stack(image, series=series, missing_planes=missing_planes)
    for text in (*stack.notes, *(intensities.notes if intensities else ())):
        note(text)
    rows = measure_objects(output, stack, intensities, kind=kind, dims=dims)
    tell(f"{count(len(rows), 'object')} written to {output}.")
