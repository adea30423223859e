"""How good the first predictions were, over minutes of annotation; only while it is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_unetseg.annotations.quality import PlaneQuality, first_qualities
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import Level, PlacedQuality

if TYPE_CHECKING:
    from napari_unetseg.gui.plugin import Plugin
    from napari_unetseg.gui.state.session import Session

__all__ = ["Quality"]

SECONDS, REST = 1.0, 10.0
"""It is computed anew this often at most, and rests so many times as long as it took."""


class Quality:
    """Compares first predictions with the truth, beside the window, while that is wanted.

    Parameters
    ----------
    controller, session
        The controller knows the runner, what was said about each image, and when its planes were
        first predicted.
    """

    def __init__(self, controller: Plugin, session: Session) -> None:
        self._controller, self._session = controller, session
        self.clock: Callable[[], float] = time.monotonic
        self._wanted = self._asking = False
        self._changed, self._next = True, 0.0
        for field in ("structures", "project", "sources"):
            getattr(self._session.events, field).connect(self.on_change, max_args=0)
        controller.events.annotation_changed.connect(self.on_change, max_args=0)
        controller.events.image_removed.connect(self.forget)
        controller.events.tick.connect(self.tick, max_args=0)

    def on_change(self) -> None:
        """Something was said, or planes were predicted for the first time."""
        self._changed = True

    def forget(self, image: Any) -> None:
        """Keep nothing of an image that is gone."""
        self._session.quality = tuple(p for p in self._session.quality if p.image is not image)

    def want(self, wanted: bool) -> None:
        """Compute it from now on, or no longer."""
        self._wanted = wanted
        self._next = 0.0
        self.tick()

    def tick(self) -> None:
        """Called again and again."""
        due = self._changed and self._wanted and not self._asking
        if due and self.clock() >= self._next:
            self._ask()

    def show(self, point: PlacedQuality) -> None:
        """Move the viewer to the plane of a point."""
        with refusing(self._session):
            if point.image in self._controller.viewer.layers:
                stack = napari_layers.stack_of(point.image)
                self._controller.next_region.show(point.image, point.quality.plane, stack.whole(2))

    def _ask(self) -> None:
        controller, structures = self._controller, self._session.structures
        parts = [
            (image, truth, controller.project.firsts(image))
            for image, truth in controller.annotations.truths.items()
        ]
        clock = self.clock

        def question() -> tuple[list[tuple[Any, PlaneQuality]], float]:
            start = clock()
            found = [
                (image, quality)
                for image, truth, firsts in parts
                for quality in first_qualities(truth, firsts, structures)
            ]
            return found, clock() - start

        def answer(found: tuple[list[tuple[Any, PlaneQuality]], float]) -> None:
            self._asking = False
            points, took = found
            self._next = self.clock() + max(SECONDS, REST * took)
            points.sort(key=lambda point: point[1].minutes)
            self._session.quality = tuple(PlacedQuality(*point) for point in points)

        def failed(error: BaseException) -> None:
            self._asking, self._next = False, self.clock() + SECONDS
            self._session.say(messages.explain(error, "Quality over time"), Level.WARNING)

        self._asking, self._changed = True, False
        controller.runner.query(question, answer, failed, about="quality")
