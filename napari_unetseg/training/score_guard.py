"""Test whether a model has become worse on held-out strokes, more than by chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

if TYPE_CHECKING:
    from napari_unetseg.core.agreement import Observations

CONFIDENCE = 0.99
"""Of a one-sided test: the best is the luckiest of many epochs, so that at 0.95 one in ten was the
second in a row below it though none had changed.
"""
LEAST_FALL = 0.02
"""Falls of the agreement up to this are never noticed."""


def fell(now: Observations, best: Observations) -> bool:
    """Whether the agreement fell by more than its standard error allows.

    A paired test, stroke by stroke: Student's t of the differences in the fraction right, where
    every class counts as much and every stroke of a class.

    Parameters
    ----------
    now, best
        Of two models on the same held-out labels.
    """
    changes, classes = now.right - best.right, now.classes
    own = [changes[classes == k] for k in np.unique(classes)]
    if min(map(len, own), default=0) < 2:
        return False
    change = float(np.mean([each.mean() for each in own]))
    error = math.sqrt(sum(each.var(ddof=1) / len(each) for each in own)) / len(own)
    freedom = len(changes) - len(own)
    return change < -max(LEAST_FALL, float(student.ppf(CONFIDENCE, freedom)) * error)
