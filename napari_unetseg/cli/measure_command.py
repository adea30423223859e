"""Command ``unetseg measure``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import note, tell
from napari_unetseg.cli.options import (
    INSTANCES_HELP,
    Files,
    Ignore,
    MaskKind,
    Threshold,
    check_threshold,
)
from napari_unetseg.cli.settings_options import with_settings
from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.labels import IGNORE_INDEX, LabelKind
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack


@with_settings
def measure(
    mask: Annotated[Path, Argument(metavar="MASK", help="A mask, as predict writes it.")],
    files: Files,
    image: Annotated[
        Path | None, Argument(metavar="[IMAGE]", help="Its image, to measure intensities.")
    ] = None,
    output: Annotated[
        Path,
        Option(
            "-o",
            "--output",
            metavar="FILE",
            help="A table, .csv or .parquet; or outlines, .zip (ImageJ ROIs) or .geojson (QuPath).",
        ),
    ] = Path("objects.csv"),
    labels: Annotated[
        MaskKind, Option(help="full: connected voxels are one object; " + INSTANCES_HELP + ".")
    ] = MaskKind.FULL,
    ignore: Ignore = None,
    threshold: Threshold = None,
    dims: Annotated[
        int | None, Option(min=2, max=3, help="2: planes. Default: volumes if there is a Z.")
    ] = None,
) -> None:
    """Measure the objects of a mask, in the units of its file: a row for each. Or outline them."""
    from napari_unetseg.inference.large.object_table import check_mask, check_table, measure_objects
    from napari_unetseg.io.open_image import open_stack
    from napari_unetseg.io.write_outlines import OUTLINE_SUFFIXES

    kind = LabelKind(labels)
    check_threshold(threshold, kind)
    outlined = output.suffix.lower() in OUTLINE_SUFFIXES
    if not outlined:
        check_table(output)
    check_writable(output.parent)
    stack = _open_mask(mask, files.axes, files.spacing, threshold, ignore)
    intensities = None
    if image is not None:
        intensities = open_stack(image, series=files.series, missing_planes=files.missing_planes)
    ignore = ignore if threshold is None else IGNORE_INDEX
    notes = (*stack.notes, *(intensities.notes if intensities else ()))
    for sentence in (*notes, *check_mask(stack, intensities, kind, ignore)):
        note(sentence)
    if outlined:
        found = _outline(output, stack, kind, ignore)
        tell(f"{count(found, 'outline')} written to {output}.")
        return
    rows = measure_objects(output, stack, intensities, kind=kind, dims=dims, ignore=ignore)
    tell(f"{count(len(rows), 'object')} written to {output}.")


def _outline(path: Path, mask: Stack, kind: LabelKind, ignore: int | None) -> int:
    """Write the outlines of the objects in each plane of a mask."""
    from napari_unetseg.io.numbered_planes import NumberedPlanes
    from napari_unetseg.io.write_outlines import write_outlines

    planes = NumberedPlanes(mask.data, ignore=ignore, connected=kind is LabelKind.FULL)
    return write_outlines(path, planes, axes=mask.grid_axes)


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
