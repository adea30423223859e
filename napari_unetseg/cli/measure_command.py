"""Command ``unetseg measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import note, tell
from napari_unetseg.cli.mask_files import NoRimObjects, Structures, find_structures_of, open_mask
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


@with_settings
def measure(
    mask: Annotated[Path, Argument(metavar="MASK", help="A mask, as predict writes it.")],
    files: Files,
    image: Annotated[
        Path | None, Argument(metavar="[IMAGE]", help="Its image, to measure intensities.")
    ] = None,
    output: Annotated[
        Path, Option("-o", "--output", metavar="TABLE", help="A .csv or .parquet file.")
    ] = Path("objects.csv"),
    labels: Annotated[
        MaskKind, Option(help="full: connected voxels are one object; " + INSTANCES_HELP + ".")
    ] = MaskKind.FULL,
    structures: Structures = None,
    no_rim_objects: NoRimObjects = False,
    ignore: Ignore = None,
    threshold: Threshold = None,
    dims: Annotated[
        int | None, Option(min=2, max=3, help="2: planes. Default: volumes if there is a Z.")
    ] = None,
) -> None:
    """Measure the objects of a mask, in the units of its file: a row for each."""
    from napari_unetseg.inference.large.object_table import check_mask, check_table, measure_objects
    from napari_unetseg.io.open_image import open_stack

    kind = LabelKind(labels)
    check_threshold(threshold, kind)
    beside = find_structures_of(mask, structures, kind)
    check_table(output)
    check_writable(output.parent)
    stack = open_mask(mask, kind, files, threshold, ignore)
    intensities = None
    if image is not None:
        intensities = open_stack(image, series=files.series, missing_planes=files.missing_planes)
    ignore = ignore if threshold is None else IGNORE_INDEX
    notes = (*stack.notes, *(intensities.notes if intensities else ()))
    for sentence in (*notes, *check_mask(stack, intensities, kind, ignore)):
        note(sentence)
    rows = measure_objects(
        output,
        stack,
        intensities,
        kind=kind,
        dims=dims,
        ignore=ignore,
        structures=1 if beside is None else open_mask(beside, LabelKind.FULL, files),
        rim_objects=not no_rim_objects,
    )
    tell(f"{count(len(rows), 'object')} written to {output}.")
