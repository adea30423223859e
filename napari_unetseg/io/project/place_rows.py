"""Places of a check of quality, as rows of a project's database."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.io.project.label_rows import (
    decode_array,
    encode_array,
    parse_region,
    region_text,
)

if TYPE_CHECKING:
    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.annotations.sparse_array import Region

UINT8 = np.dtype(np.uint8)
Overlaps = Mapping[int, tuple[int, int, int]]
"""Voxels of each structure in both, in the mask and in the truth."""


class PlaceState(StrEnum):
    """Where a drawn place stands."""

    PENDING = "pending"
    """It is still to be checked; nothing in it trains."""
    CHECKED = "checked"
    """Its truth is known; nothing in it trains."""
    SKIPPED = "skipped"
    """Nobody knew; it does not count."""
    RELEASED = "released"
    """It was checked, and is used for training since: it measures no later model."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelOverlaps:
    """How the mask of one model agrees with the truth of a place."""

    name: str
    """The model's."""
    counts: Overlaps


@dataclass(frozen=True, slots=True, eq=False)
class CheckedPlace:
    """A piece of a plane that was drawn at random to measure the mask."""

    number: int
    """Its id in the project."""
    image: str
    """Key of the image in the project."""
    region: Region
    """On the image's grid."""
    weight: float
    """Inverse of the probability with which it was drawn."""
    seed: int
    """Of the check that it belongs to."""
    truth: np.ndarray
    """uint8 of the region's shape: 0 does not count as it was labelled before, 1 to 254 a
    structure, 255 background or, while it is pending, not known."""
    state: PlaceState = PlaceState.PENDING
    seconds: float = 0.0
    """When it was checked, in seconds since 1970."""
    models: Mapping[str, ModelOverlaps] = field(default_factory=dict)
    """Agreement of each model, by its id."""

    def is_same_as(self, other: CheckedPlace) -> bool:
        """Whether both are the same place, whatever is known of it."""
        mine, theirs = ((p.number, p.image, p.seed, p.region) for p in (self, other))
        return mine == theirs

    @property
    def held_out(self) -> bool:
        """Whether nothing of it may be trained on."""
        return self.state in (PlaceState.PENDING, PlaceState.CHECKED)


def place_columns(place: CheckedPlace) -> tuple[Any, ...]:
    """A place as a row of the table ``places``."""
    models = {
        model: {"name": one.name, "counts": {str(n): list(c) for n, c in one.counts.items()}}
        for model, one in place.models.items()
    }
    said = (
        place.number,
        place.image,
        region_text(place.region),
        float(place.weight),
        int(place.seed),
        str(place.state),
        float(place.seconds),
        json.dumps(models),
    )
    truth = encode_array(place.truth, UINT8)
    return (*said, truth, _crc(said, truth))


def place_of(columns: tuple[Any, ...], by_image: Mapping[str, ImageAnnotations]) -> CheckedPlace:
    """The place of a row; `ValueError` and others where it is damaged."""
    *said, truth, crc = columns
    number, image, text, weight, seed, state, seconds, models = said
    if crc != _crc(said, truth):
        raise ValueError("a checksum is another")
    if not 0 < number < 2**53 or not (math.isfinite(weight) and weight >= 1):
        raise ValueError("an id or a weight is none")
    region = parse_region(text, by_image[image].shape)
    values = decode_array(truth, [s.stop - s.start for s in region], UINT8)
    overlaps = {str(key): _overlaps(one) for key, one in json.loads(models).items()}
    return CheckedPlace(
        number, image, region, weight, int(seed), values, PlaceState(state), seconds, overlaps
    )


def _overlaps(said: Mapping[str, Any]) -> ModelOverlaps:
    counts = {}
    for number, (both, mask, truth) in said["counts"].items():
        if not 0 < int(number) < BACKGROUND_LABEL or not 0 <= both <= min(mask, truth):
            raise ValueError("counts of no structure")
        counts[int(number)] = (int(both), int(mask), int(truth))
    return ModelOverlaps(str(said["name"]), counts)


def _crc(said: Iterable[Any], truth: bytes) -> int:
    return zlib.crc32(truth, zlib.crc32("|".join(map(str, said)).encode()))
