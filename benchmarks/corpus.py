"""Pictures with masks of a corpus, as episodes for pretraining are drawn from them.

A corpus is a folder with ``index.tsv`` (columns set, item, labels, group, …),
``SET/images/ITEM.png`` (grey or RGB) and ``SET/masks/ITEM.png`` (semantic classes, or ids of
objects).
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage as ndi
from skimage.io import imread
from torch import Tensor
from torch.nn import functional
from worlds import edges, field

LOW, HIGH = 1.0, 99.8
"""Percentiles that become 0 and 1, as in training."""
SMALLEST, LARGEST = 0.5, 2.0
"""Magnification of a picture."""
SAME_PICTURE = 0.3
"""How often all crops of an episode are from one picture."""
FEW = 6
"""Sets with fewer pictures than this are drawn half as often."""
OWN_STRUCTURES = ("neubias_mixed",)
"""Sets whose pictures show something different each."""
MOST_CLASSES = 3
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image (C, Y, X) float16 from 0 to 1, and its classes or object ids (Y, X) int16."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class CorpusSet:
    """The pictures of one set; ``instances``: masks hold ids of objects."""

    name: str
    group: str
    instances: bool
    pictures: tuple[Picture, ...]
    origin: str
    licence: str
    """Where it is from, at which commit, and its licence, as its ``SOURCE.md`` says."""


def stretched(image: np.ndarray) -> np.ndarray:
    """Each channel (C, Y, X) from its low to its high percentile: 0 to 1."""
    low, high = np.percentile(image, [LOW, HIGH], axis=(1, 2))[:, :, None, None]
    return np.asarray((image - low) / np.maximum(high - low, 1e-3))


def read_corpus(root: Path, without: Collection[str] = ()) -> list[CorpusSet]:
    """The sets of a corpus, but for these groups or sets."""
    with (root / "index.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        if name in without or own[0]["group"] in without:
            continue
        pictures = tuple(_read(root / name, row["item"]) for row in own)
        instances = own[0]["labels"] == "instances"
        source = _source(root / name)
        found.append(
            CorpusSet(
                name,
                own[0]["group"],
                instances,
                pictures,
                source["origin"],
                source["licence as stated"],
            )
        )
    return found


def _source(folder: Path) -> dict[str, str]:
    """The list of facts of a set: ``- name: value``."""
    lines = (folder / "SOURCE.md").read_text(encoding="utf-8").splitlines()
    facts = (line[2:].partition(": ") for line in lines if line.startswith("- "))
    return {name: value for name, _, value in facts}


def _read(folder: Path, item: str) -> Picture:
    image = imread(folder / "images" / f"{item}.png")
    channels = image[None] if image.ndim == 2 else image[..., :3].transpose(2, 0, 1)
    mask = imread(folder / "masks" / f"{item}.png")
    return Picture(stretched(channels.astype(np.float32)).astype(np.float16), mask.astype(np.int16))


class CorpusEpisodes:
    """Draws crops of one set in one random look.

    Parameters
    ----------
    sets
        As `read_corpus` gives them.
    edge
        Pixels of a crop along Y and X.
    """

    def __init__(self, sets: list[CorpusSet], edge: int) -> None:
        self.sets, self.edge = sets, edge
        weights = np.array([0.5 if len(s.pictures) < FEW else 1.0 for s in sets])
        self.weights = weights / weights.sum()

    def draw(self, rng: Rng, count: int) -> tuple[str, np.ndarray, np.ndarray]:
        """Name of the set, images (count, 3, edge, edge) float32 and class indices uint8."""
        chosen = self.sets[rng.choice(len(self.sets), p=self.weights)]
        one = chosen.name in OWN_STRUCTURES or rng.random() < SAME_PICTURE
        number = rng.integers(len(chosen.pictures))
        scale = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
        look, task = Look(rng), Task(rng, chosen.instances)
        images, targets = [], []
        for _ in range(count):
            picture = chosen.pictures[number if one else rng.integers(len(chosen.pictures))]
            image, mask = crop(picture, self.edge, scale * float(np.exp(rng.normal(0, 0.1))), rng)
            images.append(look(image, rng))
            targets.append(task(mask))
        return chosen.name, np.stack(images), np.stack(targets)


def crop(picture: Picture, edge: int, scale: float, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A random crop that is magnified to (edge, edge)."""
    size = int(min(*picture.mask.shape, max(8, round(edge / scale))))
    y, x = (int(rng.integers(0, s - size + 1)) for s in picture.mask.shape)
    image = torch.from_numpy(picture.image[:, y : y + size, x : x + size].astype(np.float32))
    mask = torch.from_numpy(picture.mask[y : y + size, x : x + size].astype(np.float32))
    wanted = (edge, edge)
    image = functional.interpolate(image[None], wanted, mode="bilinear", antialias=size > edge)[0]
    mask = functional.interpolate(mask[None, None], wanted, mode="nearest-exact")[0, 0]
    return image.numpy(), mask.numpy().astype(int)


class Task:
    """What is asked of an episode: a mask to class indices.

    Objects may be asked for with their borders, or with core and rim (from the distance to the
    border), so that the features hold borders and distances too.
    """

    def __init__(self, rng: Rng, instances: bool) -> None:
        self.instances = instances
        self.kind = rng.choice(["plain", "border", "depth"], p=[0.6, 0.25, 0.15])
        self.thick, self.depth = rng.uniform(1, 3.5), rng.uniform(2, 8)
        self.binary = rng.random() < 0.3

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Class indices (Y, X) uint8 of classes, or of ids where the set has instances."""
        if not self.instances and mask.max() > 1:
            return mask.astype(np.uint8)
        classes = (mask > 0).astype(np.uint8)
        if self.kind == "border":
            rim = edges(mask, self.thick)
            return rim.astype(np.uint8) if self.binary else np.where(rim, 2, classes)
        if self.kind == "depth":
            apart = np.where(edges(mask, 1.0), 0, mask)
            core = ndi.distance_transform_edt(apart > 0) > self.depth
            return core.astype(np.uint8) if self.binary else np.where(core, 2, classes)
        return classes


class Look:
    """A random look: colours, contrast, focus, noise and light, a little different each time."""

    def __init__(self, rng: Rng) -> None:
        self.grey, self.turned = rng.random() < 0.15, rng.random() < 0.1
        self.order = rng.permutation(3) if rng.random() < 0.2 else np.arange(3)
        amount = rng.choice([0, 0.1, 0.3])
        self.stain = np.eye(3) + amount * rng.normal(0, 0.5, (3, 3))
        self.gain = np.exp(amount * rng.normal(0, 1, 3))
        self.gamma = float(np.exp(rng.uniform(-0.6, 0.6)))
        self.blur = rng.choice([0, 0, rng.uniform(0.4, 1.6)])
        self.noise = rng.choice([0, 0, rng.uniform(0, 0.15)])
        self.grain = rng.choice([0, 0, 0.8])
        self.shade = rng.choice([0, 0, rng.uniform(0, 0.4)])
        self.varies = rng.choice([0, 0.2, 0.5])

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        """An image (C, Y, X) in this look, (3, Y, X) float32."""
        image = self._colours(image) if len(image) == 3 else image
        gamma = self.gamma * float(np.exp(0.4 * self.varies * rng.normal()))
        image = np.sign(image) * np.abs(image) ** gamma
        if self.shade:
            image = image + self.shade * field(rng, image.shape[-1] / 4, image.shape[-1])
        if self.blur:
            image = ndi.gaussian_filter(image, (0, self.blur, self.blur))
        if self.noise:
            noise = rng.standard_normal(image.shape)
            if self.grain:
                noise = ndi.gaussian_filter(noise, (0, self.grain, self.grain)) * 2
            image = image + self.noise * float(np.exp(self.varies * rng.normal())) * noise
        image = stretched(1 - image if self.turned else image)
        return np.broadcast_to(image, (3, *image.shape[1:])).astype(np.float32)

    def _colours(self, image: np.ndarray) -> np.ndarray:
        """Stains a little different: a linear map of the optical densities."""
        if self.grey:
            return np.asarray(image.mean(0, keepdims=True))
        density = -np.log(np.clip(image, 0.02, 1.5))
        mixed = np.einsum("ij,jyx->iyx", self.stain * self.gain[:, None], density)
        return np.asarray(np.exp(-mixed)[self.order])


def as_tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    """Tensors of arrays that may be views."""
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
