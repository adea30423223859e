"""How long a person annotated: exact seconds."""

from __future__ import annotations

import pytest

from napari_unetseg.annotations.annotation_time import PAUSE, AnnotationTime


def test_pauses_do_not_count_and_neither_does_the_change_after_one() -> None:
    effort = AnnotationTime()
    for now in (100.0, 110.0, 110.0 + PAUSE, 500.0, 520.0, 520.0 + PAUSE + 0.01, 600.0):
        effort.count_change(now)
    assert effort.seconds == pytest.approx(10 + PAUSE + 20 + (600 - 520 - PAUSE - 0.01))
