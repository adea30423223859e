"""Quality of models at checked places: a row for each model and structure."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.inference.quality_estimate import QualityEstimate, estimate
from napari_unetseg.io.project.place_rows import PlaceState

if TYPE_CHECKING:
    from pathlib import Path

    from napari_unetseg.io.project.place_rows import CheckedPlace

HEAD = (
    "model", "id", "number", "structure", "dice", "dice_low", "dice_high", "iou", "iou_low",
    "iou_high", "places_with_structure", "places",
)  # fmt: skip
"""Columns of the table as CSV; low and high are the ends of 90 % intervals."""


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """What the checked places say of one model."""

    model: str
    """Its id."""
    name: str
    places: int
    """Places at which its mask was compared with the truth."""
    structures: Mapping[int, QualityEstimate]
    """By number; those that occur in a mask or a truth."""


def quality_of(places: Iterable[CheckedPlace], order: Sequence[str] = ()) -> list[ModelQuality]:
    """Estimate the quality of every model whose mask was compared with the truth.

    Parameters
    ----------
    places
        Of all checks. Those that are used for training count for the models from before that.
    order
        Ids of models in the order of the result; others come first.
    """
    checked = [p for p in places if p.state in (PlaceState.CHECKED, PlaceState.RELEASED)]
    names = {model: one.name for place in checked for model, one in place.models.items()}
    ranks = {model: rank for rank, model in enumerate(order)}
    return [
        _quality(model, names[model], [p for p in checked if model in p.models])
        for model in sorted(names, key=lambda model: ranks.get(model, -1))
    ]


def _quality(model: str, name: str, places: Sequence[CheckedPlace]) -> ModelQuality:
    weights = np.array([place.weight for place in places])
    counts = [place.models[model].counts for place in places]
    structures = {}
    for number in sorted({n for one in counts for n in one}):
        rows = np.array([one.get(number, (0, 0, 0)) for one in counts], float)
        found = estimate(rows, weights)
        if found.places:
            structures[number] = found
    return ModelQuality(model, name, len(places), structures)


def quality_rows(found: Iterable[ModelQuality], names: Mapping[int, str]) -> list[list[object]]:
    """Rows of the table as `HEAD` says; ``names`` are those of the structures."""
    return [
        [
            one.name, one.model, number, names.get(number, f"structure {number}"),
            *(round(value, 4) for value in (e.dice, e.low, e.high, *e.iou)), e.places, one.places,
        ]
        for one in found
        for number, e in one.structures.items()
    ]  # fmt: skip


def quality_lines(one: ModelQuality, names: Mapping[int, str]) -> list[str]:
    """A line for each structure of a model, such as ``nuclei: Dice 0.87 (90 % interval …)``."""
    lines = []
    for number, found in one.structures.items():
        text = f"{names.get(number, f'structure {number}')}: Dice {found.dice:.2f}"
        if found.places == 1:
            lines.append(f"{text}, found in one place only; check more places.")
            continue
        part = f"{found.places} of " if found.places < one.places else ""
        interval = f"90 % interval {found.low:.2f} to {found.high:.2f}"
        lines.append(f"{text} ({interval}), {part}{one.places} places")
    return lines or ["No structure was found in the checked places; check more places."]


def write_quality(path: Path, found: Iterable[ModelQuality], names: Mapping[int, str]) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        writer.writerows(quality_rows(found, names))
