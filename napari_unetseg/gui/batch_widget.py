"""Batch dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QVBoxLayout

from napari_unetseg.gui.base_dock import BaseDock
from napari_unetseg.gui.state.session import JobKind
from napari_unetseg.gui.widgets.batch_section import BatchPanel

if TYPE_CHECKING:
    import napari.viewer


class BatchDock(BaseDock):
    """Batch prediction; closing the dock stops a running batch and keeps the list."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        plugin = self.plugin
        self.panel = BatchPanel(
            self.session, plugin.jobs, plugin.batch, plugin.voxel_size, plugin.history
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 8, 6)
        column.addWidget(self.panel, 1)
        self.follow_theme()

    def sizeHint(self) -> QSize:
        """Wide and low, as it goes below the canvas."""
        return QSize(640, 190)

    def release(self) -> None:
        """Stop a running batch and disconnect from all events."""
        job = self.session.job
        if job is not None and job.kind is JobKind.BATCH:
            self.plugin.jobs.stop()
        self.panel.release()
        super().release()
