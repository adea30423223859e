"""Pictures with numbered objects, and what a person labelled of them: all, a few objects, strokes.

A set whose labels are ``instances`` is read plane by plane. Of a set with many images and few that
train (`LARGE`), images are drawn with a fixed seed until 15 train, and 10 of the others test: the
training images of ``benchmark.tsv`` come first, since only they have strokes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from sets import BenchmarkSet, Item

from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.data.annotated_image import AnnotatedImage

MODES = ("masks", "finished", "strokes")
"""What is labelled: all objects and the background; a few whole objects and strokes; strokes."""
LARGE, TRAIN, TEST = 20, 15, 10
"""Single images from which on a set is split anew, and how many then train and test."""
SPLIT_SEED = 18
FINISHED, FEW = 20, 4
"""Finished objects, and the images that they and the strokes are in."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A plane or volume with the numbers of its objects (0 background), and its strokes."""

    image: Stack
    ids: np.ndarray
    strokes: np.ndarray | None = None

    @property
    def dims(self) -> int:
        """2 for a plane, 3 for a volume."""
        return self.ids.ndim

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each axis of the ids."""
        return self.image.spatial_spacing(self.dims)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A picture with what is labelled of it: all of it, or strokes and finished objects."""

    picture: Picture
    finished: np.ndarray | None = None
    full: bool = False

    @property
    def pair(self) -> AnnotatedImage:
        """As a training with objects takes it."""
        image, strokes = self.picture.image, self.picture.strokes
        if self.full:
            return AnnotatedImage(image, self.picture.ids, LabelKind.INSTANCES)
        return AnnotatedImage(image, strokes, LabelKind.STROKES, objects=self.finished)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The pictures of a set that train and that test."""

    train: tuple[Picture, ...]
    test: tuple[Picture, ...]

    @property
    def names(self) -> dict[str, list[str]]:
        """What trains and what tests."""
        return {
            "train": [picture.image.name for picture in self.train],
            "test": [picture.image.name for picture in self.test],
        }

    def labelled(self, mode: str, seed: int) -> list[Labelled]:
        """What is labelled of the training pictures in a mode."""
        if mode == "masks":
            return [Labelled(picture, full=True) for picture in self.train]
        few = [picture for picture in self.train if picture.strokes is not None][:FEW]
        if mode == "strokes":
            return [Labelled(picture) for picture in few]
        chosen = finished_objects([picture.ids for picture in few], FINISHED, seed)
        return [Labelled(picture, ids) for picture, ids in zip(few, chosen, strict=True)]


def read_split(data: BenchmarkSet, dims: int = 2) -> Split:
    """The pictures of a set; with ``dims`` 3 the first half of each stack's planes trains."""
    if dims == 3:
        files = dict.fromkeys(item.file for item in (*data.train, *data.test))
        halves = [half for file in files for half in _halves(data, file)]
        return Split(tuple(halves[::2]), tuple(halves[1::2]))
    train, test = split_items(data)
    return Split(_pictures(data, train, set(data.train)), _pictures(data, test, set()))


def split_items(data: BenchmarkSet) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The items that train and that test."""
    items = (*data.train, *data.test)
    if len(items) < LARGE or any(item.plane is not None for item in items):
        return data.train, data.test
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.test))
    drawn = [data.test[i] for i in order]
    more = max(0, TRAIN - len(data.train))
    return (*data.train, *drawn[:more]), tuple(drawn[more : more + TEST])


def _pictures(
    data: BenchmarkSet, items: Sequence[Item], with_strokes: set[Item]
) -> tuple[Picture, ...]:
    """One picture for each plane of the items, in their order."""
    found: dict[tuple[str, tuple[int, ...]], Picture] = {}
    for file in dict.fromkeys(item.file for item in items):
        (one,) = data.read([item for item in items if item.file == file], "full")
        ids = data.numbers(file, "masks", one.image)
        painted = any(item.file == file for item in with_strokes)
        strokes = data.numbers(file, "scribbles", one.image) if painted else None
        for plane in one.planes:
            name = file + (f"[{','.join(map(str, plane))}]" if plane else "")
            pixels = one.image.read(plane, one.image.whole(2))
            image = _stack(one.image, pixels, name)
            here = None if strokes is None else strokes[plane].astype(np.uint8)
            found[file, plane] = Picture(image, ids[plane].astype(np.int32), here)
    return tuple(found.values())


def _stack(source: Stack, pixels: np.ndarray, name: str) -> Stack:
    """A plane or volume (channels, *spatial) as a stack with the voxel size of its source."""
    dims = pixels.ndim - 1
    axes, spacing = "C" + "ZYX"[-dims:], (1.0, *source.spatial_spacing(dims))
    units = ("pixel", *source.grid_units[-dims:])
    return Stack(pixels, axes, spacing, units, source.channels, name)


def _halves(data: BenchmarkSet, file: str) -> list[Picture]:
    """The two halves of a volume along Z, the first one with its strokes."""
    (one,) = data.read([Item(file)], "full")
    pixels = one.image.read((), one.image.whole(3))
    ids = data.numbers(file, "masks", one.image).astype(np.int32)
    strokes = data.numbers(file, "scribbles", one.image).astype(np.uint8)
    middle = len(ids) // 2
    first = _stack(one.image, pixels[:, :middle], f"{file}[:{middle}]")
    second = _stack(one.image, pixels[:, middle:], f"{file}[{middle}:]")
    return [Picture(first, ids[:middle], strokes[:middle]), Picture(second, ids[middle:])]


def finished_objects(masks: Sequence[np.ndarray], count: int, seed: int) -> list[np.ndarray]:
    """Masks with a few of their objects: as many from each, those at the rim last.

    Parameters
    ----------
    masks
        Numbers of the objects, 0 for background.
    count
        Objects to keep, all masks together.
    seed
        Of the choice.
    """
    rng = np.random.default_rng(seed)
    turns = zip_longest(*(_order(ids, rng) for ids in masks))
    deal = [(which, number) for turn in turns for which, number in enumerate(turn) if number]
    kept: list[list[int]] = [[] for _ in masks]
    for which, number in deal[:count]:
        kept[which].append(number)
    return [np.where(np.isin(ids, own), ids, 0) for ids, own in zip(masks, kept, strict=True)]


def _order(ids: np.ndarray, rng: np.random.Generator) -> list[int]:
    """The numbers of a mask in random order, those of objects that the rim cuts last."""
    numbers = rng.permutation(np.unique(ids[ids > 0]))
    cut = np.isin(numbers, np.unique(rim(ids)))
    return [int(number) for number in (*numbers[~cut], *numbers[cut])]


def rim(ids: np.ndarray) -> np.ndarray:
    """The values at the image's rim in Y and X."""
    sides = (ids[..., 0, :], ids[..., -1, :], ids[..., 0], ids[..., -1])
    return np.concatenate([side.ravel() for side in sides])


def flat(picture: Picture) -> np.ndarray:
    """The pixels of a picture as float32 (*spatial), the mean of its channels."""
    data = np.asarray(picture.image.data, np.float32)
    return data.mean(0)
