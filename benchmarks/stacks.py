"""OME-Zarr stacks that declare far more than lies on disk: their chunk files are hard links.

A few planes of real nuclei with noise of their own are stored as chunks; the chunks of all other
planes are further names of the same files. So the store is read as any other, file by file and
decoded each time, and a stack of 100 GB takes 400 MB, most of it folders. What is not measured is
the disk: the system keeps the few files in memory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr

__all__ = ["EDGE", "PLANE_BYTES", "make_stack", "n_planes"]

EDGE = 2048
"""Pixels along Y and X."""
CHUNK = 1024
LEVELS = 3
KINDS = 16
"""Different planes."""
PLANE_BYTES = 2 * EDGE**2
AXES = ("z", "y", "x")
MICRONS = (2.0, 0.5, 0.5)


def n_planes(size: float) -> int:
    """Planes of a stack of so many bytes, rounded up."""
    return -(-round(size) // PLANE_BYTES)


def make_stack(path: Path, planes: int, kinds: int = KINDS) -> Path:
    """Write an OME-Zarr 0.5 image (Z, Y, X), uint16, of so many planes and three resolutions."""
    root = zarr.create_group(path, attributes={"ome": _ome(path.stem)}, overwrite=True)
    kinds = min(kinds, planes)
    images = [_image(kind) for kind in range(kinds)]
    for level in range(LEVELS):
        edge, chunk = EDGE >> level, min(CHUNK, EDGE >> level)
        array = root.create_array(
            str(level),
            shape=(planes, edge, edge),
            chunks=(1, chunk, chunk),
            dtype="uint16",
            dimension_names=AXES,
        )
        for kind, image in enumerate(images):
            array[kind] = image[:: 1 << level, :: 1 << level]
        for plane in range(kinds, planes):
            _link(path / str(level) / "c", plane % kinds, plane)
    return path


def _link(chunks: Path, source: int, plane: int) -> None:
    """Give the chunk files of a plane the names of another's too."""
    for row in sorted((chunks / str(source)).iterdir()):
        target = chunks / str(plane) / row.name
        target.mkdir(parents=True)
        for file in row.iterdir():
            os.link(file, target / file.name)


def _image(kind: int) -> np.ndarray:
    """The sample's nuclei, repeated and shifted, with photon noise; uint16 (Y, X)."""
    from napari_unetseg import sample

    data: Any = sample.nuclei2d()[0][0]
    repeats = [-(-EDGE // n) for n in data.shape]
    tiled = np.tile(data, repeats)[:EDGE, :EDGE]
    rng = np.random.default_rng(kind)
    shifted = np.roll(tiled, tuple(rng.integers(0, EDGE, 2)), (0, 1)).astype(np.float32)
    return np.clip(rng.poisson(shifted), 0, 65535).astype(np.uint16)


def _ome(name: str) -> dict[str, Any]:
    def level(number: int) -> dict[str, Any]:
        factors = (1, 1 << number, 1 << number)
        scale = [s * f for s, f in zip(MICRONS, factors, strict=True)]
        return {
            "path": str(number),
            "coordinateTransformations": [{"type": "scale", "scale": scale}],
        }

    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in AXES]
    scales = {"name": name, "axes": axes, "datasets": [level(n) for n in range(LEVELS)]}
    return json.loads(json.dumps({"version": "0.5", "multiscales": [scales]}))
