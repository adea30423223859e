"""Outlines of corrections and accepted regions in the chosen image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.annotations.annotation_store import AnnotationChange
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session


class CorrectionsOutline:
    """Outlines of the chosen image."""

    def __init__(
        self, viewer: ViewerModel, session: Session, annotations: Annotations, events: AppEvents
    ) -> None:
        self._viewer, self._session, self._annotations = viewer, session, annotations
        self._overlay: napari_layers.CorrectionsOverlay | None = None
        session.events.image.connect(self._on_image, max_args=0)
        events.annotation_changed.connect(self._on_annotation_changed)
        events.image_removed.connect(self._on_image_removed)
        events.tick.connect(self._on_tick)

    @property
    def shown(self) -> bool:
        """Whether the outline layer exists; the user may have deleted it."""
        return self._overlay is not None and self._overlay.alive

    def show(self, wanted: bool) -> None:
        """Show or hide outlines of corrected and accepted voxels of the chosen image."""
        if self._overlay is not None:
            self._overlay.remove()
            self._overlay = None
        image = self._session.image
        if wanted and image is not None:
            with refusing(self._session):
                annotated = self._annotations.of(image)
                self._overlay = napari_layers.CorrectionsOverlay(self._viewer, image, annotated)
                self._overlay.show()

    def _on_image(self) -> None:
        if self._overlay is not None and self._overlay.image is not self._session.image:
            self.show(self.shown)

    def _on_annotation_changed(self, image: Any, change: AnnotationChange) -> None:
        if self._overlay is not None and image is self._overlay.image:
            self._overlay.renew(change.region)

    def _on_image_removed(self, image: Any) -> None:
        if self._overlay is not None and self._overlay.image is image:
            self.show(False)

    def _on_tick(self, _: float) -> None:
        if self._overlay is not None:
            self._overlay.flush()
