"""Projects with a single image for tests; what a killed process leaves, and disks without room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.sparse_array import Region, whole
from napari_unetseg.io.project.project import Project

SHAPE = (3, 300, 520)
KEY = "image-1"
IMAGES = {"images": {KEY: {"shape": list(SHAPE), "dtype": "uint8", "kind": "strokes"}}}
SPOKEN = (LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED)
PLACE = (slice(0, 1), slice(0, 9), slice(0, 9))


def begin(folder: Path) -> tuple[Project, ImageAnnotations]:
    one = Project.create(folder)
    truth = ImageAnnotations(SHAPE)
    one.add(KEY, truth, IMAGES)
    return one, truth


def say(
    one: Project, truth: ImageAnnotations, origin: LabelSource, region: Region, values: Any
) -> None:
    shape = [s.stop - s.start for s in region]
    change = truth.record(origin, region, np.broadcast_to(values, shape).astype(np.uint8))
    if change is not None:
        one.record(KEY, change)


def draw(rng: np.random.Generator) -> tuple[LabelSource, Region, np.ndarray]:
    y, x, z = rng.integers(0, 280), rng.integers(0, 500), int(rng.integers(3))
    region = (slice(z, z + 1), slice(int(y), int(y) + 20), slice(int(x), int(x) + 20))
    values = rng.integers(0, 3, (1, 20, 20)).astype(np.uint8)
    return SPOKEN[int(rng.integers(3))], region, values


def is_same(one: ImageAnnotations, other: ImageAnnotations) -> bool:
    everything = whole(one.shape)
    return (one.kind, one.grid_dtype) == (other.kind, other.grid_dtype) and all(
        np.array_equal(one.read(origin, everything), other.read(origin, everything))
        and np.array_equal(one.times(origin, everything), other.times(origin, everything))
        for origin in LabelSource
    )


def check_kept(folder: Path, truth: ImageAnnotations) -> None:
    """A project that is opened again holds all of it, and says that nothing is missing."""
    again, now = reopened(folder)
    assert again.lost == []
    assert is_same(truth, now)
    again.close()


def reopened(folder: Path) -> tuple[Project, ImageAnnotations]:
    one = Project.open(folder)
    return one, one.by_image[KEY]


def kill(project: Project) -> None:
    """Leave what a process that is killed leaves: its files as they are, and no lock."""
    names = [file for file in project.folder.iterdir() if file.name.startswith("project.")]
    files = {file: file.read_bytes() for file in names}
    assert project._database is not None
    project._database.close()
    project._release()
    for file, content in files.items():
        file.write_bytes(content)


@contextmanager
def no_room() -> Iterator[None]:
    """No file can grow beyond 30,000 bytes: what a full disk does to one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
