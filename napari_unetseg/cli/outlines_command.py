"""Command ``unetseg outlines``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import note, tell
from napari_unetseg.cli.mask_files import NoRimObjects, Structures, find_structures_of, open_mask
from napari_unetseg.cli.options import Files, Ignore, MaskKind
from napari_unetseg.cli.settings_options import with_settings
from napari_unetseg.core.atomic_write import check_writable
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.text import count


@with_settings
def outlines(
    mask: Annotated[Path, Argument(metavar="MASK", help="Numbers of objects, as of predict.")],
    files: Files,
    output: Annotated[
        Path,
        Option(
            "-o",
            "--output",
            metavar="FILE",
            help="A .zip of ROIs for ImageJ, or a .geojson for QuPath.",
        ),
    ],
    labels: Annotated[
        MaskKind,
        Option(
            help="instances: every number is an object; full: connected pixels of a structure are "
            "one object."
        ),
    ] = MaskKind.INSTANCES,
    structures: Structures = None,
    ignore: Ignore = None,
    no_rim_objects: NoRimObjects = False,
    dims: Annotated[
        int | None,
        Option(min=2, max=3, help="2: objects of planes. Default: of volumes if there is a Z."),
    ] = None,
    annotations: Annotated[
        bool,
        Option("--annotations", help="For QuPath: annotations to edit, instead of detections."),
    ] = False,
) -> None:
    """Write the outlines of objects, as ROIs of ImageJ or GeoJSON for QuPath, in pixels."""
    from napari_unetseg.inference.large.mask_numbers import MaskNumbers, MaskParts
    from napari_unetseg.inference.large.object_table import check_mask
    from napari_unetseg.io.structure_names import structures_in
    from napari_unetseg.io.write_outlines import outline_format_of, write_outlines

    kind = LabelKind(labels)
    outline_format_of(output)
    check_writable(output.parent)
    beside = find_structures_of(mask, structures, kind)
    stack = open_mask(mask, kind, files)
    for sentence in (*stack.notes, *check_mask(stack, kind=kind, ignore=ignore)):
        note(sentence)
    ids, named = MaskNumbers(stack, ignore), mask
    classes: MaskNumbers | None = None
    if kind is LabelKind.FULL:
        ids, classes, dims = MaskParts(stack, ignore), ids, 2
    elif beside is not None:
        classes, named = MaskNumbers(open_mask(beside, LabelKind.FULL, files)), beside
    written = write_outlines(
        output,
        ids,
        axes=stack.grid_axes,
        mask=classes,
        structures=structures_in(named) if classes is not None else (),
        rim_objects=not no_rim_objects,
        dims=dims,
        annotations=annotations,
    )
    tell(f"{count(written, 'outline')} written to {output}.")
