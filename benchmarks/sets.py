"""Benchmark sets: images with ground truth and fixed strokes, read from the files alone.

A data root holds ``benchmark.tsv`` (columns set, axes, labels, role, item) and for each set the
folders ``images``, ``masks`` and ``scribbles``, whose files share their stems. ``labels`` is
``instances`` (every id is an object of structure 1) or ``semantic``. The item of a stack is
``file[plane]``. Strokes hold 0 where nothing is labelled, 255 for background, else a structure.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.io.open_image import open_labels, open_stack, stem_of

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

Plane = tuple[int, ...]
"""Index along every axis before Y and X; empty for a single picture."""
Truth = Literal["strokes", "full"]
Predictor = Callable[[Stack, Sequence[Plane]], np.ndarray]
"""From a stack and the planes that are wanted to a mask of the whole grid."""
UNKNOWN = BACKGROUND_LABEL
"""Value of a full mask in planes that are not to be trained on."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture, or one plane of a stack; ``plane`` is None for all of a file."""

    file: str
    plane: Plane | None = None

    @classmethod
    def parse(cls, text: str) -> Item:
        """Read ``file`` or ``file[plane]``."""
        found = re.fullmatch(r"(.+)\[(\d+(?:,\d+)*)\]", text)
        if found is None:
            return cls(text)
        return cls(found[1], tuple(int(number) for number in found[2].split(",")))


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """An image with a mask or strokes (uint8, grid shape), and the planes that are given."""

    image: Stack
    labels: np.ndarray
    planes: tuple[Plane, ...]

    @property
    def voxels(self) -> int:
        """Voxels of the given planes."""
        return len(self.planes) * int(np.prod(self.labels.shape[-2:]))

    def pair(self, truth: Truth) -> AnnotatedImage:
        """The image as training takes it; what lies outside the given planes is not labelled."""
        full = truth == "full"
        labels = np.full_like(self.labels, UNKNOWN if full else 0)
        for plane in self.planes:
            labels[plane] = self.labels[plane]
        if not full:
            return AnnotatedImage(self.image, labels, LabelKind.STROKES)
        return AnnotatedImage(self.image, labels, LabelKind.FULL, ignore=UNKNOWN)


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """One set of a data root."""

    folder: Path
    axes: str
    instances: bool
    train: tuple[Item, ...]
    test: tuple[Item, ...]

    @property
    def name(self) -> str:
        """Name of the set, which is that of its folder."""
        return self.folder.name

    def training(self, truth: Truth = "strokes") -> list[Annotated]:
        """The training images, one for each file, with their strokes or full masks."""
        return self.read(self.train, truth)

    def tests(self) -> list[Annotated]:
        """The test images, one for each file, with their full masks."""
        return self.read(self.test, "full")

    def read(self, items: Sequence[Item], truth: Truth) -> list[Annotated]:
        """Images and labels of some items."""
        images = []
        for file in dict.fromkeys(item.file for item in items):
            stack = open_stack(find(self.folder / "images", file), axes=self.axes)
            stack = replace(stack, data=np.asarray(stack.data))
            planes = [item.plane for item in items if item.file == file]
            every = tuple(stack.planes(2))
            given = every if None in planes else tuple(p for p in planes if p is not None)
            images.append(Annotated(stack, self._labels(file, truth, stack), given))
        return images

    def numbers(self, file: str, folder: str, stack: Stack) -> np.ndarray:
        """What a file of ``masks`` or ``scribbles`` holds, on the grid of its image."""
        return np.asarray(open_labels(find(self.folder / folder, file), stack.grid_shape))

    def _labels(self, file: str, truth: Truth, stack: Stack) -> np.ndarray:
        labels = self.numbers(file, "scribbles" if truth == "strokes" else "masks", stack)
        if truth == "full" and (self.instances or set(np.unique(labels)) == {0, BACKGROUND_LABEL}):
            labels = labels > 0
        return labels.astype(np.uint8)


def find(folder: Path, file: str) -> Path:
    """The file of that name, or else of that stem, in a folder."""
    if (folder / file).is_file():
        return folder / file
    found = sorted(folder.glob(glob.escape(stem_of(file)) + ".*"))
    if not found:
        raise SystemExit(f"{folder} holds no {file}; check benchmark.tsv.")
    return found[0]


def read_sets(root: Path, names: str = "") -> list[BenchmarkSet]:
    """The sets of a data root in the order of its table; ``names`` are separated by commas."""
    table = root / "benchmark.tsv"
    if not table.is_file():
        raise SystemExit(f"There is no {table}; give a folder that holds benchmark.tsv.")
    rows: dict[str, list[dict[str, str]]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            rows.setdefault(row["set"], []).append(row)
    wanted = names.split(",") if names else list(rows)
    if missing := [name for name in wanted if name not in rows]:
        raise SystemExit(f"{table} has no set {missing[0]}; choose from {', '.join(rows)}.")
    return [_set(root / name, rows[name]) for name in wanted]


def _set(folder: Path, rows: Sequence[dict[str, str]]) -> BenchmarkSet:
    def of(role: str) -> tuple[Item, ...]:
        return tuple(Item.parse(row["item"]) for row in rows if row["role"] == role)

    instances = rows[0]["labels"] == "instances"
    return BenchmarkSet(folder, rows[0]["axes"], instances, of("train"), of("test"))


def pooled_dice(found: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over structures of the Dice over the pooled voxels of all images.

    Parameters
    ----------
    found
        (mask, truth) of equal shape with the numbers of structures, 0 for background. The
        structures are those that occur in a truth.
    """
    both, sums = np.zeros(256, np.int64), np.zeros(256, np.int64)
    occurs = np.zeros(256, bool)
    for mask, truth in found:
        both += np.bincount(truth[mask == truth], minlength=256)
        true = np.bincount(truth.ravel(), minlength=256)
        sums += true + np.bincount(mask.ravel(), minlength=256)
        occurs |= true > 0
    occurs[0] = False
    return float((2 * both[occurs] / sums[occurs]).mean()) if occurs.any() else float("nan")


def score(images: Sequence[Annotated], predict: Predictor) -> float:
    """Dice of a predictor on the given planes of images with full masks; see `pooled_dice`."""
    return pooled_dice(
        (mask[plane], image.labels[plane])
        for image in images
        for mask in [predict(image.image, image.planes)]
        for plane in image.planes
    )


def predictor(model: Model, threads: int, device: str = "auto") -> Predictor:
    """A model as a predictor: a 2D one sees the planes, a 3D one the whole volumes of them."""
    from napari_unetseg.inference.predict import predict

    settings = PredictSettings.model_validate({"threads": threads, "device": device})

    def run(stack: Stack, planes: Sequence[Plane]) -> np.ndarray:
        wanted = planes if model.dims == 2 else sorted({plane[:-1] for plane in planes})
        return predict(model, stack, settings, planes=wanted)

    return run
