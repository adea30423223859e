"""Newer annotations on their way to the training that runs."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.services.annotation_snapshot import (
    Pairs,
    Snapshot,
    newer_pairs,
    take_snapshots,
)
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_unetseg.gui.controller import Controller

__all__ = ["AnnotationOffers"]


class AnnotationOffers:
    """Offers what is labelled to a training as soon as it changes.

    A snapshot is taken in the GUI thread; whether it says anything new is found out beside it, one
    snapshot at a time. So every stroke is offered after at most one that is looked at already.

    Parameters
    ----------
    controller
        Knows the sources, what was said about each image, and the runner.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._offered: tuple[Snapshot, ...] = ()
        self._due = self._asking = False
        self._unsearched: set[Any] = set()

    def begin(self) -> tuple[Snapshot, ...]:
        """Snapshots of all there is to train on, for a training that begins.

        What was written into layers without a word is searched, and nothing offered before that:
        the training finds it by itself.

        Raises
        ------
        UserError
            Labels do not fit their image.
        """
        controller = self._controller
        sources, newer = controller.session.sources, controller.looking.newer
        self._offered = take_snapshots(sources, controller.truths, newer, self._offered)
        images = {one.image for one in self._offered if one.live is not None}
        self._unsearched = {s for image, s in controller.strokes.items() if image in images}
        controller.doubts |= self._unsearched
        return self._offered

    def end(self) -> None:
        """The training ended; what it was offered saves the next one from working it out again."""
        self._due = False
        self._unsearched.clear()

    def forget(self, image: Any) -> None:
        """An image is gone."""
        self._offered = tuple(one for one in self._offered if one.image is not image)

    def searched(self, found: Iterable[Any]) -> None:
        """Layers were searched for what was written without a word."""
        self._unsearched.difference_update(found)

    def changed(self) -> None:
        """Something may have been said."""
        self._due = True

    def tick(self) -> None:
        """Called again and again: look at what changed while a training goes on."""
        controller, job = self._controller, self._controller.session.job
        if not self._due or self._asking or self._unsearched:
            return
        self._due = False
        if job is None or job.kind is not JobKind.TRAIN:
            return
        asked, before, newest = time.monotonic(), self._offered, self._newest()
        if newest is None:
            controller.looking.offered(asked)
            return

        self._asking = True
        newer = partial(newer_pairs, newest, before)
        answer = partial(self._on_newer, job.id, asked, newest)
        controller.runner.query(newer, answer, self._on_error, about="offer")

    def _newest(self) -> tuple[Snapshot, ...] | None:
        """What is labelled now; None where it cannot be learned from."""
        controller = self._controller
        if controller.aligning.misplaced() is not None:  # it is seen elsewhere than where it counts
            return None
        sources, before = controller.session.sources, self._offered
        try:
            return take_snapshots(sources, controller.truths, before=before, complete=False)
        except UserError:  # labels that no longer fit their image
            return None

    def _on_newer(self, job: int, asked: float, newest: tuple[Snapshot, ...], newer: Pairs) -> None:
        self._asking = False
        controller = self._controller
        if controller.is_current(job):
            if newer:
                self._offered = newest
                controller.offer(newer)
            controller.looking.offered(asked)

    def _on_error(self, error: BaseException) -> None:
        self._asking = False
        text = messages.explain(error, "Looking at what you painted")
        self._controller.session.say(text, Level.WARNING)
