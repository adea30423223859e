"""Annotations of every image, synchronised with their layers."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from psygnal import Signal

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Image, Labels

    from napari_unetseg.annotations.sparse_array import SparseArray
    from napari_unetseg.gui.layers import Strokes
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import ImageSource, Session

log = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 0.3
"""Changed labels are announced this often at most."""


class Searched(Protocol):
    """A layer in which something may have changed that only a search can find."""

    def search(self) -> Any:
        """Where it changed; in any thread."""

    def settle(self, regions: Any) -> None:
        """Record what changed there."""


class Annotations:
    """What was painted, corrected and accepted in each image.

    Attributes
    ----------
    by_image
        The annotations of each image layer.
    strokes
        The annotation layer in use of each image layer.
    known_labels
        What is known of layers that are no labels at the moment, or were made from it.
    """

    searched = Signal(object)
    """Layers were searched for what was written without a word."""

    def __init__(self, session: Session, runner: Runner, events: AppEvents) -> None:
        self._session, self._runner, self._events = session, runner, events
        self.by_image: dict[Any, ImageAnnotations] = {}
        self.strokes: dict[Any, Strokes] = {}
        self.known_labels: WeakKeyDictionary[Labels, SparseArray] = WeakKeyDictionary()
        self._doubts: set[Searched] = set()
        self._searching = self._touched = False
        self._announced = 0.0
        session.events.sources.connect(self._follow_strokes, max_args=0)
        events.labels_touched.connect(self._on_touched)
        events.image_removed.connect(self._on_image_removed)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._on_closed)

    def of(self, image: Image) -> ImageAnnotations:
        """All annotations of an image; raises `UserError` where it cannot be segmented."""
        if image not in self.by_image:
            shape = napari_layers.stack_of(image).grid_shape
            self.by_image[image] = ImageAnnotations(shape)
        return self.by_image[image]

    def changed(self, image: Image, change: AnnotationChange) -> None:
        """Publish what changed of an image's annotations."""
        self._events.labels_touched.emit()
        self._events.annotation_changed.emit(image, change)

    def doubt(self, layers: Iterable[Searched]) -> None:
        """Have layers searched for changes that nobody told."""
        self._doubts.update(layers)

    def announce(self) -> None:
        """Announce changed labels now."""
        self._touched, self._announced = False, time.perf_counter()
        self._events.labels_changed.emit()

    # -- annotation layers ---------------------------------------------------------------------

    def _follow_strokes(self) -> None:
        """Listen to every annotation layer that is in use."""
        wanted = {s.image: s for s in self._session.sources if s.labels and not s.on_disk}
        for image in [i for i, s in self.strokes.items() if not _serves(s, wanted.get(i))]:
            self._end_strokes(image)
            if image not in wanted and image in self.by_image:
                self.by_image[image].disable_strokes()
                self._events.labels_touched.emit()
        for image, source in wanted.items():
            annotated = self.of(image)
            if image in self.strokes:
                self._follow_kind(image, source, annotated)
            else:
                self.strokes[image] = self._follow(image, source, annotated)

    def _follow(self, image: Any, source: ImageSource, annotated: ImageAnnotations) -> Strokes:
        """Listen to an annotation layer; one that was there before goes on where it was."""
        grid, away = annotated.grid(LabelSource.STROKES), annotated.strokes_disabled
        known = self.known_labels.get(source.labels) is grid and grid.dtype == source.labels.dtype
        tell = partial(self.changed, image)
        strokes = napari_layers.Strokes(source.labels, annotated, source.kind, tell, known=known)
        strokes.on_doubt = partial(self.doubt, (strokes,))
        strokes.on_other = partial(self._on_other, image, source.labels)
        if not known:
            self._events.annotations_replaced.emit(image)
        else:
            self._follow_kind(image, source, annotated)
        if known and away:
            strokes.look_again()
        return strokes

    def _follow_kind(self, image: Any, source: ImageSource, annotated: ImageAnnotations) -> None:
        if annotated.kind != source.kind:
            annotated.kind = source.kind
            self._events.label_kind_changed.emit(image)

    def _on_other(self, image: Any, labels: Labels, fits: bool) -> None:
        """An annotation layer was given another array, of other numbers or of another shape."""
        if fits:
            self._events.annotations_replaced.emit(image)
            return
        self._session.sources = tuple(
            replace(s, labels=None, chosen=True) if s.labels is labels else s
            for s in self._session.sources
        )
        text = messages.LABELS_UNFIT.format(labels.name, image.name)
        self._session.say(text, Level.WARNING)

    def _end_strokes(self, image: Image) -> None:
        """Listen no more to what is painted in the annotation layer of an image."""
        if (gone := self.strokes.pop(image, None)) is not None:
            gone.end()
            if gone.lasts:
                self.known_labels[gone.layer] = gone.annotated.grid(LabelSource.STROKES)

    # -- events --------------------------------------------------------------------------------

    def _on_touched(self) -> None:
        self._touched = True

    def _on_image_removed(self, image: Any) -> None:
        self._end_strokes(image)
        self.by_image.pop(image, None)

    def _on_tick(self, now: float) -> None:
        if self._doubts and not self._searching:
            self._search()
        for annotated in self.by_image.values():
            annotated.flush()
        if self._touched and now - self._announced > ANNOUNCE_SECONDS:
            self.announce()

    def _search(self) -> None:
        """Search what may have changed, beside the window."""
        doubts, self._doubts, self._searching = list(self._doubts), set(), True

        def settle(found: list[tuple[Searched, Any]]) -> None:
            self._searching = False
            for one, regions in found:
                one.settle(regions)
            self.searched.emit(doubts)

        def failed(error: BaseException) -> None:  # the next change has it searched
            log.error("a search for what changed failed", exc_info=error)
            settle([])

        def search() -> list[tuple[Searched, Any]]:
            return [(one, one.search()) for one in doubts]

        self._runner.query(search, settle, failed, about="changes")

    def _on_closed(self) -> None:
        self._session.events.sources.disconnect(self._follow_strokes)
        for strokes in self.strokes.values():
            strokes.end()


def _serves(strokes: Strokes, source: ImageSource | None) -> bool:
    return source is not None and strokes.layer is source.labels
