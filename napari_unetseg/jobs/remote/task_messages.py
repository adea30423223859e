"""Serialisation of tasks, viewports and annotations as JSON and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.settings import MatchSpacing, PredictSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.jobs.live_predictor import Viewport, ViewportState, ViewportTask
from napari_unetseg.jobs.remote.grid_messages import pack_grid, unpack_grid
from napari_unetseg.jobs.remote.image_messages import encode_stack
from napari_unetseg.jobs.remote.model_messages import key_of
from napari_unetseg.jobs.remote.packets import BadMessageError, Json, Message
from napari_unetseg.jobs.tasks import PredictTask, Task, TrainTask

if TYPE_CHECKING:
    import numpy as np

    from napari_unetseg.models.model import Model

OpenStack = Callable[[Json], Stack]
GRIDS = ("labels", "corrections", "objects")
"""Arrays of an annotated image."""


class MessageNumbers:
    """Numbers of a task's images and viewports in messages."""

    def __init__(self) -> None:
        self.stacks: list[Stack] = []
        self.views: list[Viewport] = []

    def describe(self, stack: Stack) -> Json:
        """Metadata of an image with its number; the same pixels keep theirs."""
        for number, numbers in enumerate(self.stacks):
            if numbers.data is stack.data and numbers.axes == stack.axes:
                return encode_stack(stack, number)
        self.stacks.append(stack)
        return encode_stack(stack, len(self.stacks) - 1)

    def view(self, view: Viewport | None) -> Json | None:
        """Encode a viewport; its layer becomes a number."""
        if view is None:
            return None
        for number, numbers in enumerate(self.views):
            if numbers.image is view.image:
                self.views[number] = view
                break
        else:
            number = len(self.views)
            self.views.append(view)
        words = {"image": number, "stack": self.describe(view.stack), "plane": view.plane}
        return words | {"match_spacing": view.match_spacing}


def encode_pairs(pairs: Sequence[AnnotatedImage], numbers: MessageNumbers) -> Message:
    """Encode annotated images: metadata and labels."""
    words: list[Json] = []
    arrays: list[np.ndarray] = []
    for pair in pairs:
        one: Json = {
            "image": numbers.describe(pair.image),
            "kind": pair.kind,
            "ignore": pair.ignore,
        }
        for name in GRIDS:
            grid = getattr(pair, name)
            one[name] = None
            if grid is not None:
                one[name], packed = pack_grid(grid)
                arrays.append(packed)
        one["newer"] = [encode_region(region) for region in pair.newer]
        words.append(one)
    return {"pairs": words}, arrays


def decode_pairs(
    words: Json, arrays: Sequence[np.ndarray], stack: OpenStack
) -> tuple[AnnotatedImage, ...]:
    """Decode annotated images."""
    left = iter(arrays)
    pairs = []
    for one in words["pairs"]:
        labels, corrections, objects = [
            None if one[name] is None else unpack_grid(one[name], next(left)) for name in GRIDS
        ]
        newer = tuple(
            region for told in one["newer"] if (region := decode_region(told)) is not None
        )
        image = stack(one["image"])
        said = one["kind"], corrections, one["ignore"], newer
        pairs.append(AnnotatedImage(image, labels, *said, objects=objects))
    return tuple(pairs)


def decode_view(words: Json | None, stack: OpenStack) -> Viewport | None:
    """Decode a viewport."""
    if words is None:
        return None
    match: MatchSpacing = "auto" if words["match_spacing"] else False
    return Viewport(int(words["image"]), stack(words["stack"]), tuple(words["plane"]), match)


def decode_region(words: Sequence[Sequence[int]] | None) -> tuple[slice, ...] | None:
    """Decode the visible region."""
    return None if words is None else tuple(slice(*span) for span in words)


def encode_region(region: Sequence[slice] | None) -> list[tuple[int, int]] | None:
    """Encode the visible region."""
    return None if region is None else [(int(r.start), int(r.stop)) for r in region]


def check_settings(settings: TrainSettings, model: Model | None) -> TrainSettings:
    """Refuse settings that make another computer read a file of encoder weights."""
    if settings.encoder_weights is None:
        return settings
    if model is not None:
        return settings.model_copy(update={"encoder_weights": None})
    raise UserError(
        "Another computer reads no encoder weights, only models that were saved here; leave them "
        "out, or begin the training on this one and go on there."
    )


def encode_task(task: Task, numbers: MessageNumbers) -> tuple[Json, list[np.ndarray], Model | None]:
    """Encode a task without its viewport; return the model that it needs, too."""
    if isinstance(task, TrainTask):
        words, arrays = encode_pairs(task.pairs, numbers)
        settings = check_settings(task.settings, task.model)
        words |= {"task": "train", "settings": settings.model_dump(mode="json")}
        words["structures"] = [asdict(structure) for structure in task.structures]
    elif isinstance(task, PredictTask):
        planes = None if task.planes is None else [list(plane) for plane in task.planes]
        words = {"task": "predict", "settings": task.settings.model_dump(mode="json")}
        words |= {"planes": planes, "stack": numbers.describe(task.stack)}
        arrays = []
    else:
        done = sorted(list(plane) for plane in task.done)
        words = {"task": "look", "device": task.device, "done": done, "ahead": task.ahead}
        arrays = []
    words["model"] = None if task.model is None else key_of(task.model)
    return words, arrays, task.model


def decode_task(
    words: Json, arrays: Sequence[np.ndarray], model: Model | None, stack: OpenStack
) -> tuple[Task, ViewportState]:
    """Decode a task.

    Raises
    ------
    UserError
        It is invalid, or refused by a worker.
    """
    screen = ViewportState()
    try:
        screen.view = decode_view(words.get("view"), stack)
        screen.seen = decode_region(words.get("seen"))
        if words["task"] == "train":
            settings = TrainSettings.model_validate(words["settings"])
            structures = [Structure(**one) for one in words["structures"]]
            pairs = decode_pairs(words, arrays, stack)
            settings = check_settings(settings, model)
            return TrainTask(pairs, settings, structures, model, screen), screen
        if model is None:
            raise BadMessageError("no model")
        return _seen_task(words, model, stack, screen), screen
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise BadMessageError("a task that is none") from error


def _seen_task(words: Json, model: Model, stack: OpenStack, screen: ViewportState) -> Task:
    if words["task"] == "predict":
        planes: Any = words["planes"]
        planes = None if planes is None else [tuple(plane) for plane in planes]
        settings = PredictSettings.model_validate(words["settings"])
        return PredictTask(model, stack(words["stack"]), planes, settings)
    done = frozenset(tuple(plane) for plane in words["done"])
    settings = PredictSettings(device=words["device"])
    return ViewportTask(model, screen, settings.device, done, int(words["ahead"]))
