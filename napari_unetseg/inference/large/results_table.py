"""CSV table of predicted images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.atomic_write import atomic_path

if TYPE_CHECKING:
    from napari_unetseg.inference.large.predict_files import FileDone
    from napari_unetseg.models.model import Model


def write_report(
    path: Path, results: Sequence[tuple[Model | None, FileDone]], models: Sequence[str] = ()
) -> None:
    """Write a CSV with a row for each image, atomically.

    Parameters
    ----------
    path
        The file.
    results
        Models, and what became of the images that they were applied to; None where there was none.
    models
        The name of each row's model, where a column is to tell them apart.
    """
    columns: dict[tuple[int, str], str] = {}
    for model, _ in results:
        for key in _classes(model):
            columns.setdefault(key, f"{key[1]} ({key[0]})")
    objects = sorted({number for _, done in results for number in done.objects})
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        head = ["image", "mask", "status", "seconds", *columns.values()]
        head += [f"objects of {number}" for number in objects]
        rows.writerow([*(["model"] if models else []), *head, "notices", "error"])
        for place, (model, done) in enumerate(results):
            mine = _classes(model)
            facts: list[Any] = [done.image, done.mask, done.status, f"{done.seconds:.2f}"]
            facts += [
                done.voxels.get(key[0], 0) if done.voxels and key in mine else "" for key in columns
            ]
            facts += [done.objects.get(number, "") for number in objects]
            rows.writerow([*models[place : place + 1], *facts, " ".join(done.notices), done.error])


def _classes(model: Model | None) -> list[tuple[int, str]]:
    if model is None:
        return []
    return list(zip(model.classes.numbers, model.classes.names, strict=True))
