"""Counts of labelled, corrected and accepted voxels of each structure in the chosen image."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.label_appearance import LabelAppearance, classify_labels
from napari_unetseg.core.labels import BACKGROUND_LABEL, OBJECT_KINDS, LabelKind
from napari_unetseg.data.image_grids import LabelCounter
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Message, Session

COUNTED = (LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED)
Counted = tuple[dict[int, int], list[int], LabelAppearance | None]
"""Voxels of each number, of corrections and of accepted regions, and the labels' appearance."""


class LabelCounts:
    """Counts the chosen image's labels in the background whenever they change."""

    def __init__(
        self,
        session: Session,
        sources: ImageSources,
        annotations: Annotations,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._session, self._sources, self._annotations = session, sources, annotations
        self._runner, self._events = runner, events
        self._counters = {origin: LabelCounter() for origin in COUNTED}
        self._watched: Labels | None = None
        self._refused: Message | None = None
        session.events.image.connect(self._watch, max_args=0)
        session.events.sources.connect(self._watch, max_args=0)
        events.labels_changed.connect(self._count)
        events.job_failed.connect(self._on_job_failed)
        events.closed.connect(self._on_closed)

    def _watch(self) -> None:
        """Count again whenever the chosen labels are edited."""
        source = self._session.source()
        self._listen(None if source is None else source.labels)
        self._events.labels_touched.emit()

    def _listen(self, labels: Labels | None) -> None:
        if labels is self._watched:
            return
        if self._watched is not None:
            self._watched.events.paint.disconnect(self._on_painted)
            self._watched.events.set_data.disconnect(self._on_painted)
        self._watched = labels
        if labels is not None:
            labels.events.paint.connect(self._on_painted)
            labels.events.set_data.connect(self._on_painted)

    def _on_painted(self) -> None:
        self._events.labels_touched.emit()

    def _on_job_failed(self, kind: JobKind, error: BaseException) -> None:
        if kind is JobKind.TRAIN and isinstance(error, TrainingError):
            self._refused = self._session.message

    def _on_closed(self) -> None:
        for field in ("image", "sources"):
            getattr(self._session.events, field).disconnect(self._watch, missing_ok=True)
        self._listen(None)

    def _count(self) -> None:
        source, annotated = (
            self._session.source(),
            self._annotations.by_image.get(self._session.image),
        )
        labels = source.labels if source else None
        data = None if labels is None else napari_layers.data_of(labels)
        kind = source.kind if source else LabelKind.STROKES
        size = 0 if data is None else math.prod(data.shape)
        grey = self._sources.are_grey(labels)
        annotations = None if annotated is None else annotated.snapshot()
        grids: dict[LabelSource, Any] = {
            o: None if annotations is None else annotations.grid(o) for o in COUNTED
        }
        if not isinstance(data, np.ndarray):  # lazy arrays are not recorded in the annotations
            grids[LabelSource.STROKES] = data

        def count() -> Counted:
            strokes, *others = (self._counters[origin].count(grids[origin]) for origin in COUNTED)
            return (
                strokes,
                [sum(o.values()) for o in others],
                classify_labels(data) if grey else None,
            )

        self._runner.query(count, partial(self._on_counted, labels, kind, size), about="counts")

    def _on_counted(
        self, labels: Labels | None, kind: LabelKind, size: int, counted: Counted
    ) -> None:
        session = self._session
        counts, (session.corrected, session.accepted), appearance = counted
        if labels is not None:
            kind = self._sources.note_counts(labels, counts, size, appearance) or kind
            if self._sources.are_grey(labels):
                counts = {}
            elif kind is not LabelKind.STROKES:
                counts = _as_structures(counts, kind, size)
        if session.message is self._refused and counts != session.counts:
            session.say(messages.TRAIN_NOW)
        session.counts = counts
        session.know(list(counts))


def _as_structures(counts: dict[int, int], kind: LabelKind, size: int) -> dict[int, int]:
    """Counts of a mask or of instances as counts of structures and background (255)."""
    labelled = sum(n for value, n in counts.items() if value > 0)
    out = {} if kind is LabelKind.FINISHED else {BACKGROUND_LABEL: size - sum(counts.values())}
    if kind in OBJECT_KINDS or (len(counts) == 1 and max(counts) >= BACKGROUND_LABEL):
        out[1] = labelled
    else:
        out.update({n: c for n, c in counts.items() if 0 < n < BACKGROUND_LABEL})
    return out
