"""Names and colours of structures in mask files that this program wrote."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import Structure
from napari_unetseg.io.readers.zarr_nodes import is_zarr, read_node
from napari_unetseg.io.write_masks import FORMATS

LINE = re.compile(r"(\d{1,3}) = (.+)")


def structures_in(path: Path) -> tuple[Structure, ...]:
    """Structures with the names that a mask file notes: OME-Zarr labels, or a TIFF; often none."""
    found = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        for number, name, color in _of_zarr(path) if is_zarr(path) else _of_tiff(path):
            if 1 <= number <= 254:
                found[number] = Structure(number, name, color)
    return tuple(found[number] for number in sorted(found))


def _of_zarr(path: Path) -> list[tuple[int, str, str]]:
    said: Any = read_node(path).ome["image-label"]
    colors = {one["label-value"]: bytes(one["rgba"][:3]).hex() for one in said["colors"]}
    return [
        (one["label-value"], str(one["name"]), f"#{colors[one['label-value']]}")
        for one in said["properties"]
        if one["label-value"] in colors
    ]


def _of_tiff(path: Path) -> list[tuple[int, str, str]]:
    read_text = FORMATS["tiff"].read_text
    if read_text is None or not path.name.lower().endswith(FORMATS["tiff"].suffixes):
        return []
    lines = (LINE.fullmatch(line.strip()) for line in read_text(path).splitlines())
    return [(int(line[1]), line[2], "") for line in lines if line]
