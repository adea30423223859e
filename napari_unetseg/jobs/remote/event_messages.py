"""Serialisation of events as JSON and arrays, type-checked against a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, FlatImage, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.metrics import Scores
from napari_unetseg.jobs.live_predictor import MaskFinished, MaskStarted, Viewport
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.jobs.remote.model_messages import content_of, key_of, model_of
from napari_unetseg.jobs.remote.packets import BadMessageError, Json, Message
from napari_unetseg.training.training_events import (
    AnnotationsUpdated,
    EpochDone,
    ModelSetAside,
    ModelUpdated,
    SetAside,
    StepDone,
    TrainingDone,
    TrainingPrepared,
)

if TYPE_CHECKING:
    from napari_unetseg.jobs.remote.recent import Recent
    from napari_unetseg.models.model import Model

PLAIN: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        FlatImage,
        Notice,
        OtherSpacing,
        TrainingPrepared,
        StepDone,
        EpochDone,
        AnnotationsUpdated,
        MaskFinished,
        TrainingDone,
    )
}


class _Encoded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Updated(_Encoded):
    scores: Scores | None
    seconds: float
    step: int
    urgent: bool


class _Aside(_Encoded):
    reason: SetAside
    step: int


class _Mask(_Encoded):
    image: int
    plane: tuple[int, ...]
    model_id: str
    structures: tuple[Structure, ...]
    scores: Scores | None


class _Place(_Encoded):
    plane: tuple[int, ...]
    region: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.region)

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(*span) for span in self.region)


class _Tile(_Place):
    done: int
    total: int


class _Objects(_Place):
    structures: tuple[int, ...]
    spacing: tuple[float, ...]


def encode_event(event: Event, models: Recent[Model]) -> Message:
    """An event as JSON and arrays; its model, if any, is cached.

    A viewport's image becomes a number.
    """
    kind = type(event).__name__
    if isinstance(event, ModelUpdated):
        models.put(key_of(event.model), event.model)
        words = _words(event, "seconds", "step", "urgent", scores=event.scores)
        return {"kind": kind, **words}, [content_of(event.model)]
    if isinstance(event, ModelSetAside):
        models.put(key_of(event.model), event.model)
        return {"kind": kind, **_words(event, "reason", "step")}, [content_of(event.model)]
    if isinstance(event, MaskStarted):
        words = _words(event, "model_id", scores=event.scores)
        words |= {"image": event.view.image, "plane": event.view.plane}
        words["structures"] = [asdict(structure) for structure in event.structures]
        return {"kind": kind, **words}, []
    if isinstance(event, TilePredicted):
        words = _words(event, "plane", "done", "total") | _region(event)
        probs = [] if event.probabilities is None else [event.probabilities]
        return {"kind": kind, **words}, [event.mask, *probs]
    if isinstance(event, ObjectsFound):
        words = _words(event, "plane", "structures", "spacing") | _region(event)
        maps = [] if event.maps is None else [event.maps]
        return {"kind": kind, **words}, [event.ids, event.mask, *maps]
    if kind not in PLAIN:
        raise TypeError(f"{kind} does not travel")
    return {"kind": kind, **asdict(event)}, []


def _words(event: Event, *names: str, **scores: Scores | None) -> Json:
    plain = {name: getattr(event, name) for name in names}
    return plain | {name: s and asdict(s) for name, s in scores.items()}


def _region(event: TilePredicted | ObjectsFound) -> Json:
    return {"region": [(span.start, span.stop) for span in event.region]}


def decode_event(words: Json, arrays: Sequence[np.ndarray], views: Sequence[Viewport]) -> Event:
    """Decode an event.

    Parameters
    ----------
    words, arrays
        As from `encode_event`.
    views
        Valid viewports, by the number of their image.

    Raises
    ------
    BadMessageError
        It is not an event, or an unexpected one.
    """
    kind, rest = words.get("kind"), {k: v for k, v in words.items() if k != "kind"}
    try:
        if kind == ModelUpdated.__name__:
            updated = _Updated.model_validate(rest)
            return ModelUpdated(model_of(arrays[0]), **dict(updated))
        if kind == ModelSetAside.__name__:
            return ModelSetAside(model_of(arrays[0]), **dict(_Aside.model_validate(rest)))
        if kind == MaskStarted.__name__:
            mask = _Mask.model_validate(rest)
            seen = views[mask.image]
            view = Viewport(seen.image, seen.stack, mask.plane)
            _check(mask.plane, (), seen.stack.grid_shape)
            return MaskStarted(view, mask.model_id, mask.structures, mask.scores)
        if kind == TilePredicted.__name__:
            return _tile(_Tile.model_validate(rest), arrays)
        if kind == ObjectsFound.__name__:
            return _objects(_Objects.model_validate(rest), arrays)
        return PLAIN[str(kind)].validate_python(rest)  # type: ignore[no-any-return]
    except (ValidationError, UserError, LookupError, ValueError) as error:
        raise BadMessageError("an event that cannot be") from error


def _tile(tile: _Tile, arrays: Sequence[np.ndarray]) -> TilePredicted:
    mask, probs = arrays[0], arrays[1] if len(arrays) > 1 else None
    fits = mask.shape == tile.shape and mask.dtype == np.uint8
    if not fits or (probs is not None and probs.shape[1:] != tile.shape) or not 0 < tile.done:
        raise ValueError("a tile of another shape")
    total = max(tile.done, tile.total)
    return TilePredicted(tile.plane, tile.slices, mask, probs, tile.done, total)


def _objects(found: _Objects, arrays: Sequence[np.ndarray]) -> ObjectsFound:
    ids, mask = arrays[:2]
    maps = arrays[2] if len(arrays) > 2 else None
    fit = (
        ids.shape == mask.shape == found.shape
        and len(found.spacing) == len(found.region)
        and ids.dtype == np.int32
        and mask.dtype == np.uint8
        and (maps is None or (maps.shape == (2, *found.shape) and maps.dtype == np.uint8))
    )
    if not fit:
        raise ValueError("objects of another shape")
    place = found.plane, found.slices
    return ObjectsFound(*place, ids, mask, maps, found.structures, found.spacing)


def check_place(event: TilePredicted | ObjectsFound, shape: Sequence[int]) -> None:
    """Raise `BadMessageError` unless a tile, or a region of objects, lies in a grid."""
    try:
        _check(event.plane, event.region, shape)
    except ValueError as error:
        raise BadMessageError("a tile of another image") from error


def _check(plane: Sequence[int], region: Sequence[slice], shape: Sequence[int]) -> None:
    spans = [*((p, p + 1) for p in plane), *((r.start, r.stop) for r in region)]
    whole = len(spans) == len(shape) or not region
    inside = all(0 <= a < b <= size for (a, b), size in zip(spans, shape, strict=False))
    if not (whole and inside and len(spans) <= len(shape)):
        raise ValueError("it does not lie in the image")
