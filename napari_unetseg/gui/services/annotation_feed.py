"""Transfer of annotations to the running or next training."""

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

    from napari_unetseg.annotations.annotation_store import AnnotationChange
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

MOST_NEWER = 100
"""Number of newest regions of an image to which a training adapts before its first step."""


class AnnotationFeed:
    """Sends changed annotations to the running training as soon as possible.

    Snapshots are taken in the GUI thread and compared with the last one in the background, one at a
    time. So every stroke waits for at most one comparison.

    Attributes
    ----------
    newer
        Regions of images with annotations that no training has received yet.
    painted_at
        Time of the newest of them, in seconds of `time.monotonic`; None if a training has received
        all.
    """

    def __init__(
        self,
        session: Session,
        annotations: Annotations,
        checked: CheckedPlaces,
        alignment: LayerAlignment,
        jobs: JobManager,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._session, self._annotations, self._alignment = session, annotations, alignment
        self._checked = checked
        self._jobs, self._runner = jobs, runner
        self.newer: dict[Any, list[Region]] = {}
        self.painted_at: float | None = None
        self._offered_until = 0.0
        self._offered: tuple[Snapshot, ...] = ()
        self._due = self._asking = False
        self._unsearched: set[Any] = set()
        annotations.searched.connect(self._on_searched)
        events.annotation_changed.connect(self._on_annotation_changed)
        events.labels_changed.connect(self._on_labels_changed)
        checked.changed.connect(self._on_labels_changed)  # other labels are held out now
        events.image_removed.connect(self._on_image_removed)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.job_ended.connect(self._on_job_ended)
        events.tick.connect(self._on_tick)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Snapshots of all training data, for a training that begins.

        Changes of layers without an event are searched for, and nothing is sent before that: the
        training's own snapshot contains them.

        Raises
        ------
        UserError
            Labels do not fit their image.
        """
        sources, annotations = self._session.sources, self._annotations
        self._offered = take_snapshots(
            sources,
            annotations.by_image,
            self.newer,
            self._offered,
            held_out=self._checked.held_out,
        )
        images = {one.image for one in self._offered if one.live is not None}
        self._unsearched = {s for image, s in annotations.strokes.items() if image in images}
        annotations.doubt(self._unsearched)
        return self._offered

    def clear(self) -> None:
        """Mark everything painted so far as received by a training."""
        self.newer.clear()
        self.painted_at = None
        self._offered_until = 0.0

    # -- events --------------------------------------------------------------------------------

    def _on_annotation_changed(self, image: Any, change: AnnotationChange) -> None:
        if self._checked.holds_out(image, change.region):
            return
        self.painted_at = time.monotonic()
        regions = self.newer.setdefault(image, [])
        regions[:] = [*regions[1 - MOST_NEWER :], change.region]

    def _on_labels_changed(self) -> None:
        self._due = True

    def _on_searched(self, found: Iterable[Any]) -> None:
        self._unsearched.difference_update(found)

    def _on_image_removed(self, image: Any) -> None:
        self.newer.pop(image, None)
        self._offered = tuple(one for one in self._offered if one.image is not image)

    def _on_pixels_changed(self, image: Any) -> None:
        others = [s.image for s in self._session.sources if image in s.channels]
        for seen in (image, *others):
            self.newer.pop(seen, None)

    def _on_job_ended(self, kind: JobKind) -> None:
        """Send the last snapshot again if the job may not have received it."""
        if kind is not JobKind.TRAIN:
            return
        self._due = False
        self._unsearched.clear()
        left = bool(self._jobs.control.pop_annotations())
        if self.painted_at is not None and self.painted_at <= self._offered_until and not left:
            self.newer.clear()
            self.painted_at = None
        self._jobs.control.push_annotations(())

    # -- while a training goes on --------------------------------------------------------------

    def _on_tick(self, _: float) -> None:
        job = self._session.job
        if not self._due or self._asking or self._unsearched:
            return
        self._due = False
        if job is None or job.kind is not JobKind.TRAIN:
            return
        asked, before, newest = time.monotonic(), self._offered, self._newest()
        if newest is None:
            self._offered_until = asked
            return
        self._asking = True
        newer = partial(newer_pairs, newest, before)
        answer = partial(self._on_newer, job.id, asked, newest)
        self._runner.query(newer, answer, self._on_error, about="offer")

    def _newest(self) -> tuple[Snapshot, ...] | None:
        """The current annotations; None if they cannot be trained on."""
        if self._alignment.misplaced() is not None:  # it is seen elsewhere than where it counts
            return None
        sources, before = self._session.sources, self._offered
        try:
            return take_snapshots(
                sources,
                self._annotations.by_image,
                before=before,
                complete=False,
                held_out=self._checked.held_out,
            )
        except UserError:  # labels that no longer fit their image
            return None

    def _on_newer(self, job: int, asked: float, newest: tuple[Snapshot, ...], newer: Pairs) -> None:
        self._asking = False
        if self._jobs.is_current(job):
            if newer:
                self._offered = newest
                self._jobs.control.push_annotations(newer)
            self._offered_until = asked

    def _on_error(self, error: BaseException) -> None:
        self._asking = False
        text = messages.explain(error, "Reading the new annotations")
        self._session.say(text, Level.WARNING)
