"""Grid search of how objects are found, on the known objects of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_unetseg.core.labels import IGNORE_INDEX, LabelKind, most_probable
from napari_unetseg.core.object_metrics import ObjectCounts, count_objects
from napari_unetseg.core.settings import ObjectSettings
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.models.unet import probabilities

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import LabelledPlane
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.unet import UNet
    from napari_unetseg.training.trainer import Trainer, Weights

SHAPES, SMOOTHINGS = (0.5, 0.0, 1.0), (1.0, 2.0)
PROMINENCES = (0.1, 0.06, 0.15, 0.2, 0.3)
"""What is searched; the first of each are the default."""
MOST_VOXELS = 2**20
"""Most voxels of the windows in which it is searched."""
ENOUGH_HELD_OUT = 10
"""Held-out objects that suffice; with fewer of them all known objects are used."""
SMALLEST = 0.1
"""Smallest object that is kept, as a fraction of the smallest known ones."""


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """What a network says of a window, and its known objects."""

    mask: np.ndarray
    maps: np.ndarray
    objects: np.ndarray
    held_out: np.ndarray
    """Numbers of the objects; of those that are mostly held out of training, too."""
    complete: bool
    """Whether all objects are known."""
    spacing: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ObjectSearch:
    """The settings that a search chose, and what they reach on so many objects."""

    settings: ObjectSettings
    counts: ObjectCounts
    held_out: bool
    """Whether these objects were held out of training."""

    def describe(self) -> tuple[str, str]:
        """The settings and the reason in a few words."""
        chosen = self.settings
        value = f"prominence {chosen.prominence:g}, smoothing {chosen.smoothing:g}"
        if chosen.shape:
            value += f", shape {chosen.shape:g}"
        if chosen.smallest:
            value += f", at least {chosen.smallest} voxels"
        kind = "held-out" if self.held_out else "known"
        precision = self.counts.precision_at(0.5)
        reason = f"best on {self.counts.true} {kind} objects (AP at IoU 0.5: {precision:.2f})"
        return value, reason


def search_object_settings(trainer: Trainer, weights: Weights) -> ObjectSearch | None:
    """The settings with which a network finds the known objects best.

    Held-out objects count if there are enough of them. The score is the sum of the average
    precision at IoU 0.5 and 0.75. The default stays unless others are better by more than
    1 / √(number of objects), since less may be chance.

    Parameters
    ----------
    trainer
        Of the training; its dataset has the known objects.
    weights
        Of the network.

    Returns
    -------
    ObjectSearch or None
        None where no whole object is known.
    """
    if not (trainer.learns_maps and trainer.data.has_objects):
        return None
    network = trainer.network_of(weights).folded()
    places = trainer.data.object_windows(MOST_VOXELS)
    windows = [_look(trainer, network, *place) for place in places]
    held_out = sum(len(_sizes(w.held_out)) for w in windows) >= ENOUGH_HELD_OUT
    sizes = np.concatenate([_sizes(w.objects) for w in windows])
    smallest = int(SMALLEST * np.percentile(sizes, 5)) if len(sizes) else 0
    structures = trainer.data.classes.objects
    best, most = None, -math.inf
    radius = _usual_depth(windows)
    for shape, smoothing, prominence in product(SHAPES, SMOOTHINGS, PROMINENCES):
        settings = ObjectSettings(
            prominence=prominence,
            smoothing=smoothing,
            smallest=smallest,
            shape=shape,
            radius=radius,
        )
        counts = _count(windows, settings, structures, held_out=held_out)
        score = counts.precision_at(0.5) + counts.precision_at(0.75)
        if best is None:
            score += 1 / math.sqrt(max(1, counts.true))
        if best is None or score > most:
            best, most = ObjectSearch(settings, counts, held_out), score
    return best


@torch.inference_mode()
def _look(
    trainer: Trainer, network: UNet, plane: LabelledPlane, region: tuple[slice, ...]
) -> _Window:
    """What a network says of a region."""
    data = trainer.data
    image = torch.from_numpy(data.read(plane, region))[None].to(trainer.device)
    found, classes = network(image, maps=True)[0].float(), data.classes.out_channels
    probs = probabilities(found[:classes]).cpu().numpy()
    assert plane.objects is not None
    objects = _whole(plane.objects[region], region, plane.train.shape)
    pair = data.pairs[plane.pair]
    return _Window(
        data.classes.decode(most_probable(probs)),
        torch.sigmoid(found[classes:]).cpu().numpy(),
        objects,
        _mostly(objects, plane.train[region] == IGNORE_INDEX),
        pair.kind is LabelKind.INSTANCES,
        plane.stack.spatial_spacing(data.dims),
    )


def _whole(objects: np.ndarray, region: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The objects of a region without those that it cuts; the image's own rim cuts none."""
    cut: set[int] = set()
    for axis, (along, size) in enumerate(zip(region, shape, strict=True)):
        if along.start > 0:
            cut.update(np.unique(objects.take(0, axis)).tolist())
        if along.stop < size:
            cut.update(np.unique(objects.take(-1, axis)).tolist())
    return np.where(np.isin(objects, sorted(cut)), 0, objects)


def _mostly(objects: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The objects that lie mostly in a mask."""
    numbers, index = np.unique(objects, return_inverse=True)
    inside = np.bincount(index.ravel(), where.ravel(), len(numbers))
    kept = 2 * inside > np.bincount(index.ravel(), minlength=len(numbers))
    return np.asarray((numbers * kept)[index].reshape(objects.shape))


def _sizes(objects: np.ndarray) -> np.ndarray:
    """Voxels of each object."""
    return np.unique(objects[objects > 0], return_counts=True)[1]


def _usual_depth(windows: Sequence[_Window]) -> float | None:
    """The depth of most known objects in voxels of Y and X, from their areas or volumes; or None.

    That of a disk, or of a ball, of the median size.
    """
    sizes = np.concatenate([_sizes(w.objects) for w in windows]) if windows else np.zeros(0)
    if not len(sizes):
        return None
    window = windows[0]
    finest = min(window.spacing[-2:])
    volume = float(np.median(sizes)) * math.prod(s / finest for s in window.spacing)
    dims = len(window.spacing)
    radius = math.sqrt(volume / math.pi) if dims == 2 else (volume * 3 / (4 * math.pi)) ** (1 / 3)
    return min(max(round(radius, 1), 1.0), 256.0)


def settings_of(
    trainer: Trainer, search: ObjectSearch | None, init: Model | None
) -> ObjectSettings | None:
    """How a training's models find objects: as searched, as the initial model, or by default.

    None where the network has no object maps, or no whole object is known.
    """
    if not trainer.learns_maps:
        return None
    if search is not None:
        return search.settings
    earlier = init.object_settings if init else None
    return earlier or (ObjectSettings() if trainer.data.has_objects else None)


def _count(
    windows: Sequence[_Window],
    settings: ObjectSettings,
    structures: Sequence[int],
    *,
    held_out: bool,
) -> ObjectCounts:
    """Compare what is found with these settings with the known objects."""
    counts = ObjectCounts()
    for window in windows:
        found = find_objects(window.mask, window.maps, structures, settings, window.spacing)
        truth = window.held_out if held_out else window.objects
        partial = held_out or not window.complete
        counts = counts + count_objects(truth, found, partial=partial)
    return counts
