"""Main dock: sections in the order of the workflow."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import ref

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_unetseg.gui.base_dock import BaseDock
from napari_unetseg.gui.batch_widget import BatchDock
from napari_unetseg.gui.focus import FocusOrder
from napari_unetseg.gui.widgets.advanced_settings import AdvancedPanel
from napari_unetseg.gui.widgets.annotate_section import AnnotatePanel
from napari_unetseg.gui.widgets.image_section import ImagePanel
from napari_unetseg.gui.widgets.model_section import ModelPanel
from napari_unetseg.gui.widgets.next_region_section import NextRegionPanel
from napari_unetseg.gui.widgets.objects_section import ObjectsPanel
from napari_unetseg.gui.widgets.project_section import ProjectPanel
from napari_unetseg.gui.widgets.quality_section import QualityPanel
from napari_unetseg.gui.widgets.result_section import ResultPanel
from napari_unetseg.gui.widgets.review_section import ReviewPanel
from napari_unetseg.gui.widgets.section import Panel, row
from napari_unetseg.gui.widgets.status_line import StatusPanel
from napari_unetseg.gui.widgets.train_section import TrainPanel
from napari_unetseg.gui.widgets.welcome import WelcomePanel

if TYPE_CHECKING:
    import napari.viewer

WIDTH = 340


class UNetDock(BaseDock):
    """Paint, train, see, correct, train again.

    Closing it stops a running training and keeps what was learned; opened again in the same
    window, it shows the same session.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        plugin, session = self.plugin, self.session
        self.project = ProjectPanel(session, plugin.restore, plugin.saving)
        self.session.watched = True
        self.image = ImagePanel(session, plugin.sources, plugin.alignment)
        self.annotate = AnnotatePanel(
            session,
            plugin.sources,
            plugin.structures,
            plugin.classes,
            plugin.conversion,
            plugin.alignment,
        )
        self.next_region = NextRegionPanel(session, plugin.next_region, plugin.uncertainty)
        self.train = TrainPanel(session, plugin.training)
        self.review = ReviewPanel(session, plugin.review, plugin.undo, plugin.outline, plugin.masks)
        self.objects = ObjectsPanel(session, plugin.objects, plugin.classes, plugin.object_settings)
        self.result = ResultPanel(
            session,
            plugin.sources,
            plugin.masks,
            plugin.prediction,
            plugin.voxel_size,
            plugin.postprocess,
            plugin.export,
        )
        self.quality = QualityPanel(session, plugin.quality_check)
        self.model = ModelPanel(session, plugin.history, plugin.comparison)
        self.advanced = AdvancedPanel(session, plugin.computers)
        self.sections: tuple[Panel, ...] = (
            self.project,
            self.image,
            self.annotate,
            self.next_region,
            self.train,
            self.review,
            self.objects,
            self.result,
            self.quality,
            self.model,
            self.advanced,
        )
        self.status = StatusPanel(session)
        self.welcome = WelcomePanel(session)
        self.help = QPushButton("?")
        self.help.setAccessibleName("Help")
        self.help.setToolTip("What to press in which order, the keys, what the numbers mean.")
        self.help.clicked.connect(self.context.show_help)
        self._has_keys = False
        self._batch: ref[BatchDock] | None = None
        self.result.batch_wanted.connect(self._on_batch_wanted)
        self._lay_out()
        self.follow_theme()

    def _lay_out(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(6)
        column.addWidget(self.welcome)
        for number, section in enumerate(self.sections):
            if number:
                column.addWidget(_rule())
            column.addWidget(section)
        column.addStretch(1)
        inner.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        scroll = QScrollArea()
        scroll.setWidget(inner)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setMinimumWidth(WIDTH)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 4)
        outer.setSpacing(4)
        outer.addWidget(scroll, 1)
        foot = row(self.status, self.help, stretch=0)
        foot.setContentsMargins(8, 0, 8, 0)
        outer.addLayout(foot)
        FocusOrder(inner, self.help)

    def sizeHint(self) -> QSize:
        """Narrow, and no taller than a small screen allows."""
        return QSize(WIDTH + 16, 560)

    def reset_choices(self, _: object = None) -> None:
        """Called by napari when layers are added, removed, moved or renamed."""
        for section in self.sections:
            section.refresh()

    def shown_in(self, window: QWidget) -> None:
        """Activate the keyboard shortcuts in the window."""
        if not self._has_keys:
            self._has_keys = True
            self.context.keys.begin(window)

    def _on_batch_wanted(self) -> None:
        """Open the batch panel below the canvas, or bring it to the front."""
        batch = self._batch() if self._batch is not None else None
        with suppress(RuntimeError):  # Qt deleted the dock when it was closed
            if batch is not None and isinstance(dock := batch.parent(), QDockWidget):
                dock.show()
                dock.raise_()
                return
        batch = BatchDock(self._viewer)
        self._batch = ref(batch)
        self._viewer.window.add_dock_widget(batch, name="U-Net batch", area="bottom")

    def release(self) -> None:
        """Stop running work and disconnect from all events."""
        self.plugin.jobs.stop()
        self.session.watched = False
        if self._has_keys:
            self._has_keys = False
            self.context.keys.end()
        for panel in (*self.sections, self.status, self.welcome):
            panel.release()
        super().release()
        layers = self._viewer.layers.events
        for signal in (layers.inserted, layers.removed, layers.reordered, layers.renamed):
            signal.disconnect(self.reset_choices)

    def _on_theme(self, _: object = None) -> None:
        super()._on_theme()
        with suppress(RuntimeError):  # same reason as in the base class
            self.train.show_theme(self._viewer.theme)


def _rule() -> QFrame:
    rule = QFrame()
    rule.setProperty("role", "rule")
    rule.setFixedHeight(1)
    return rule
