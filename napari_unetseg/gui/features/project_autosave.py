"""Autosave of annotations, settings and models to the project."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.annotations.annotation_store import AnnotationChange, LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers

if TYPE_CHECKING:
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.io.project.project import Project

SYNC_SECONDS = 2.0
"""Seconds between syncs: the most that a power failure may lose."""
RETRY_SECONDS = 5.0
SAVE_SECONDS, SAVE_BYTES, LITTLE = 300.0, 2**25, 2**10
"""Seconds or bytes after which recorded rows are joined."""
FIELDS = ("structures", "settings", "history", "entry", "mode", "match_spacing")
"""Session fields that are stored in a project."""


class ProjectAutosave:
    """Records changes immediately; syncs, joins and retries periodically."""

    def __init__(
        self,
        session: Session,
        annotations: Annotations,
        store: ProjectStore,
        events: AppEvents,
    ) -> None:
        self._annotations, self._store = annotations, store
        self._synced = self._tried = self._saved = time.monotonic()
        for field in FIELDS:
            getattr(session.events, field).connect(self._on_values, max_args=0)
        events.annotation_changed.connect(self._on_annotation_changed)
        events.annotations_replaced.connect(self._on_annotations_replaced)
        events.label_kind_changed.connect(self._on_label_kind_changed)
        events.image_removed.connect(self._on_image_removed)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.tick.connect(self.tick, max_args=0)
        events.closed.connect(store.close)

    def tick(self) -> None:
        """Sync, save and retry in the background when due."""
        store, project, now = self._store, self._store.project, time.monotonic()
        if project is None:
            return
        store.store_view()
        if store.writing:
            return
        if store.trouble and now - self._tried > RETRY_SECONDS:
            self._tried = now
            store.retry()
            store.write(partial(_save, project))
        elif now - self._synced > SYNC_SECONDS and project.unsynced:
            self._synced = now
            store.write(project.sync)
        elif project.unsaved_bytes > SAVE_BYTES or (
            now - self._saved > SAVE_SECONDS and project.unsaved_bytes > LITTLE
        ):
            self._saved = now
            store.write(partial(_save, project))

    def _on_annotation_changed(self, image: Any, change: AnnotationChange) -> None:
        """Record a change; the first one creates an unnamed project."""
        store = self._store
        if store.project is None and change.stamp == 0:
            return
        project = store.begin()
        if project is None:
            return
        if image not in store.keys:
            store.add(image)
        elif change.stamp or change.origin is not LabelSource.STROKES:
            project.record(store.keys[image], change)  # a new layer's content arrives as a whole
        store.report_trouble()

    def _on_annotations_replaced(self, image: Any) -> None:
        store = self._store
        if store.project is not None and image in store.keys:
            store.add(image)
            store.report_trouble()

    def _on_label_kind_changed(self, image: Any) -> None:
        if image in self._store.keys:
            self._store.update()

    def _on_image_removed(self, image: Any) -> None:
        """Keep the image's annotations in the project."""
        self._store.keys.pop(image, None)

    def _on_pixels_changed(self, image: Any) -> None:
        """Fingerprint an image without a file by its pixels."""
        with suppress(UserError):  # reported where the pixels were set
            if image in self._store.keys and napari_layers.path_of(image) is None:
                self._store.fingerprint(image)
                self._store.update()

    def _on_values(self) -> None:
        self._store.update()


def _save(project: Project) -> None:
    with suppress(UserError):  # `trouble` gives the reason
        project.save()
