"""Words for validation scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.core.agreement import Agreement
    from napari_unetseg.core.metrics import Scores

HIGHEST = 0.99
"""Highest agreement that is said, since strokes cannot show that all is right."""


def score_name(scores: Scores) -> str:
    """The measure in full, such as ``agreement with held-out strokes``."""
    if scores.agreement is None:
        return "Dice on held-out labels"
    return "agreement with held-out strokes" if scores.on_strokes else "Dice on held-out blocks"


def score_title(scores: Scores) -> str:
    """The measure in full, as a sentence begins."""
    name = score_name(scores)
    return f"{name[0].upper()}{name[1:]}"


def score_word(scores: Scores) -> str:
    """The measure in a word, ``agreement`` or ``Dice``."""
    return "agreement" if scores.on_strokes else "Dice"


def figure(value: float, *, on_strokes: bool) -> str:
    """A score with two digits, of strokes never ``1.00``."""
    if on_strokes and value > HIGHEST:
        return f"over {HIGHEST}"
    return f"{value:.2f}"


def score_figure(scores: Scores) -> str:
    """The measure in a word and its value, such as ``agreement 0.87``."""
    return f"{score_word(scores)} {figure(scores.value, on_strokes=scores.on_strokes)}"


def score_text(scores: Scores, before: Scores | None = None) -> str:
    """The value with its interval, such as ``0.87 (0.74 to 0.94, 23 strokes)``.

    With scores of an earlier model, ``0.81 → 0.87 (…)`` where that differs.
    """
    on_strokes, old = scores.on_strokes, ""
    text = figure(scores.value, on_strokes=on_strokes)
    if before is not None and before.on_strokes is on_strokes and before.value >= 0:
        old = figure(before.value, on_strokes=on_strokes)
    if scores.agreement is not None:
        text = agreement_text(scores.agreement, scores.blocks)
    return f"{old} → {text}" if old and not text.startswith(old) else text


def agreement_text(found: Agreement, blocks: int = 0) -> str:
    """A value with its interval and the number of strokes, or blocks where masks are full."""
    low, high = (round(100 * limit, 6) for limit in (found.low, found.high))
    many = count(found.strokes, "stroke") if found.strokes else count(blocks, "block")
    value = figure(found.value, on_strokes=found.strokes > 0)
    return f"{value} ({math.floor(low) / 100:.2f} to {math.ceil(high) / 100:.2f}, {many})"


def class_values(scores: Scores) -> dict[int, float]:
    """The value of each class by its number (0 for background); of full masks, of structures."""
    if scores.agreement is not None and scores.on_strokes:
        return {number: own.value for number, own in scores.agreement.each}
    each = zip(scores.numbers, scores.dice, strict=True)
    return {number: value for number, value in each if value == value}
