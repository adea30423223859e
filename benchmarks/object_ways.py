"""Ways from labels to numbered objects, each trained for the same time of the same clock.

- ``ours``: the mask and the object maps of one network, and a watershed;
- ``necks``: the same mask, split at its necks;
- ``border``: the same network and settings with a class for the objects' inner borders; components
  of the inside, grown back over the border. Components below a size chosen on the training images
  are left out;
- ``stardist``: StarDist in an environment of its own (``stardist_peer.py``).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from object_scores import scores_of_objects
from object_sets import Labelled, Picture, flat
from scipy import ndimage
from skimage.segmentation import find_boundaries, watershed
from watch import Clock, make_settings, write_json

from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.predict import predict_events
from napari_unetseg.models.model import load_model
from napari_unetseg.training import training_state
from napari_unetseg.training.train import train
from napari_unetseg.training.training_events import StepDone

if TYPE_CHECKING:
    import argparse

    from napari_unetseg.models.model import Model

Json = dict[str, Any]
INSIDE, BORDER = 1, 2
"""Structures of the network with a border class."""
SMALLEST = (0, 8, 16, 32, 64)
"""Sizes in voxels among which the smallest component is chosen."""
PEER = Path(__file__).with_name("stardist_peer.py")


class Skipped(Exception):
    """Why a way cannot do something, in a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a way is given: labels, pictures to find the objects of, time, and a file's stem."""

    labelled: Sequence[Labelled]
    tests: Sequence[Picture]
    seed: int
    minutes: float
    stem: Path
    options: argparse.Namespace

    @property
    def full(self) -> bool:
        """Whether everything is labelled."""
        return self.labelled[0].full

    @property
    def has_objects(self) -> bool:
        """Whether whole objects are labelled."""
        return self.full or self.labelled[0].finished is not None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The objects of each test picture, and what the training took."""

    ids: list[np.ndarray]
    training: Json


# -- our network -----------------------------------------------------------------------------------


def ours(task: Task) -> Found:
    """Objects from mask and object maps."""
    model, training = _ours(task)
    return Found([objects_of(model, p, task.options) for p in task.tests], training)


def necks(task: Task) -> Found:
    """The mask of `ours`, split at its necks."""
    model, training = _ours(task)
    found = []
    for picture in task.tests:
        mask, _ = predicted(model, picture, task.options)
        found.append(find_objects(mask, None, model.classes.objects, None, picture.spacing))
    return Found(found, training)


def _ours(task: Task) -> tuple[Model, Json]:
    structures = [Structure(1, "object", objects=True)]
    return trained(task, "ours", [one.pair for one in task.labelled], structures)


def objects_of(model: Model, picture: Picture, options: argparse.Namespace) -> np.ndarray:
    """The numbers of the objects that a model finds in a picture."""
    mask, maps = predicted(model, picture, options)
    return find_objects(mask, maps, model.classes.objects, model.object_settings, picture.spacing)


def predicted(
    model: Model, picture: Picture, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mask (*spatial) and object maps (2, *spatial) of a picture; None of a model without maps."""
    settings = PredictSettings.model_validate(
        {"threads": options.threads, "device": options.device, "object_maps": True}
    )
    mask = np.zeros(picture.ids.shape, np.uint8)
    maps = np.zeros((2, *mask.shape), np.float32) if model.net.object_maps else None
    for event in predict_events(model, picture.image, settings):
        if isinstance(event, TilePredicted):
            mask[event.region] = event.mask
            if maps is not None:
                maps[(slice(None), *event.region)] = event.maps
    return mask, maps


def trained(
    task: Task, name: str, pairs: Sequence[AnnotatedImage], structures: Sequence[Structure]
) -> tuple[Model, Json]:
    """A model trained for the task's time; the one of an earlier run, if there is one.

    The training's own clock, which its learning rate and its end follow, is the benchmark's.
    """
    path, note = (Path(f"{task.stem}_{name}{end}") for end in (".safetensors", ".training.json"))
    if note.is_file():
        return load_model(path), json.loads(note.read_text())
    settings = make_settings(task.options, task.seed)
    settings = settings.model_copy(
        update={"minutes": task.minutes, "dims": task.labelled[0].picture.dims}
    )
    clock, steps = Clock(settings.threads or 1, task.options.kind), 0

    def count(event: object) -> None:
        nonlocal steps
        steps = event.step if isinstance(event, StepDone) else steps

    with patch.object(training_state, "time", SimpleNamespace(monotonic=lambda: clock.seconds)):
        model = train(pairs, settings, structures=structures, on_event=count)
    training = {"seconds": clock.seconds, "wall_seconds": clock.wall, "steps": steps}
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    write_json(note, training)
    return model, training


# -- a border class --------------------------------------------------------------------------------


def border(task: Task) -> Found:
    """Components of the inside, grown back over the border."""
    if not task.has_objects:
        raise Skipped("strokes alone show no borders between objects")
    structures = [Structure(INSIDE, "inside"), Structure(BORDER, "border")]
    pairs = [with_borders(one) for one in task.labelled]
    model, training = trained(task, "border", pairs, structures)
    smallest = _choose_smallest(model, task)
    found = [
        grown_back(predicted(model, picture, task.options)[0], smallest) for picture in task.tests
    ]
    return Found(found, {**training, "smallest": smallest})


def with_borders(one: Labelled) -> AnnotatedImage:
    """Labels in which the outermost voxels of every known object are a structure of their own."""
    if one.full:
        return AnnotatedImage(one.picture.image, _inside_and_border(one.picture.ids), "full")
    assert one.finished is not None
    assert one.picture.strokes is not None
    own = _inside_and_border(one.finished)
    return AnnotatedImage(
        one.picture.image, np.where(own > 0, own, one.picture.strokes), LabelKind.STROKES
    )


def _inside_and_border(ids: np.ndarray) -> np.ndarray:
    """A voxel of border along every edge of an object, so that there are two between objects."""
    edge = find_boundaries(ids, connectivity=ids.ndim, mode="inner")
    return np.where(ids > 0, np.where(edge, BORDER, INSIDE), 0).astype(np.uint8)


def grown_back(mask: np.ndarray, smallest: int = 0) -> np.ndarray:
    """Components of the inside, int32, grown over the border that touches them."""
    seeds, _ = ndimage.label((mask == INSIDE), np.ones((3,) * mask.ndim))
    objects = mask % BACKGROUND_LABEL > 0
    near = ndimage.distance_transform_edt(seeds == 0)
    found = np.asarray(watershed(near, seeds, mask=objects), np.int32)
    sizes = np.bincount(found.ravel())
    found[sizes[found] < smallest] = 0
    return found


def _choose_smallest(model: Model, task: Task) -> int:
    """The size of the smallest component with which the known objects are found best."""
    pictures = [one.picture for one in task.labelled]
    masks = [predicted(model, picture, task.options)[0] for picture in pictures]
    truths = [one.picture.ids if one.finished is None else one.finished for one in task.labelled]

    def quality(size: int) -> float:
        found = [grown_back(mask, size) for mask in masks]
        return float(scores_of_objects(truths, found, partial=not task.full)["ap50"])

    return max(SMALLEST, key=quality)


# -- StarDist --------------------------------------------------------------------------------------


def stardist(task: Task) -> Found:
    """StarDist, trained from scratch; of partly labelled pictures it ignores the rest."""
    python = _python_of_stardist(task)
    with tempfile.TemporaryDirectory() as folder:
        given, back = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez_compressed(given, **_for_stardist(task))
        how = ["--seconds", f"{60 * task.minutes}", "--threads", f"{task.options.threads}"]
        command = [str(python), str(PEER), str(given), str(back), *how, "--seed", f"{task.seed}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Skipped(f"StarDist failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        with np.load(back, allow_pickle=False) as file:
            ids = [file[f"ids_{n}"] for n in range(len(task.tests))]
            names = ("seconds", "wall_seconds", "steps", "probability", "overlap")
            return Found(ids, {name: float(file[name]) for name in names})


def _python_of_stardist(task: Task) -> Path:
    if not task.has_objects:
        raise Skipped("StarDist needs whole objects")
    if task.tests[0].dims == 3:
        raise Skipped("StarDist is trained on planes only")
    folder = task.options.stardist
    if folder is None:
        raise Skipped("no environment with StarDist was given (--stardist)")
    found = [p for p in (folder / "bin/python", folder / "Scripts/python.exe") if p.is_file()]
    if not found:
        raise Skipped(f"{folder} is no Python environment")
    return found[0]


def _for_stardist(task: Task) -> dict[str, np.ndarray]:
    """Images (Y, X) float32 and ids int32, -1 where nothing is labelled."""
    arrays: dict[str, np.ndarray] = {}
    for number, one in enumerate(task.labelled):
        arrays[f"train_{number}"] = flat(one.picture)
        ids = one.picture.ids
        if not one.full:
            assert one.finished is not None
            background = one.picture.strokes == BACKGROUND_LABEL
            ids = np.where(one.finished > 0, one.finished, np.where(background, 0, -1))
        arrays[f"ids_{number}"] = ids.astype(np.int32)
    for number, picture in enumerate(task.tests):
        arrays[f"test_{number}"] = flat(picture)
    return arrays


WAYS: dict[str, Callable[[Task], Found]] = {
    "ours": ours,
    "border": border,
    "necks": necks,
    "stardist": stardist,
}
