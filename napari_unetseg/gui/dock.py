"""The dock: panels one below the other, as the work goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QDockWidget, QFrame, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from napari_unetseg.gui.panels.advanced import AdvancedPanel
from napari_unetseg.gui.panels.annotate import AnnotatePanel
from napari_unetseg.gui.panels.base import Panel, stylesheet
from napari_unetseg.gui.panels.image import ImagePanel
from napari_unetseg.gui.panels.look import LookPanel
from napari_unetseg.gui.panels.model import ModelPanel
from napari_unetseg.gui.panels.result import ResultPanel
from napari_unetseg.gui.panels.review import ReviewPanel
from napari_unetseg.gui.panels.status import StatusPanel
from napari_unetseg.gui.panels.train import TrainPanel
from napari_unetseg.gui.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QShowEvent

__all__ = ["UNetDock"]

WIDTH = 340


class UNetDock(QWidget):
    """Paint, train, see, correct, train again.

    Closing it stops a running training and keeps what was learned; opened again in the same
    window, it shows the same session.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy; layers are known by identity here, so the real one is needed
        viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._viewer = viewer
        self._docked = False
        self.workbench = Workbench.of(viewer)
        self.controller = self.workbench.controller
        self.session = self.controller.session
        self.image = ImagePanel(self.controller)
        self.annotate = AnnotatePanel(self.controller)
        self.look = LookPanel(self.controller)
        self.train = TrainPanel(self.controller)
        self.review = ReviewPanel(self.controller)
        self.result = ResultPanel(self.controller)
        self.model = ModelPanel(self.controller)
        self.advanced = AdvancedPanel(self.controller)
        self.status = StatusPanel(self.controller)
        self._lay_out()
        viewer.events.theme.connect(self._on_theme)
        self._on_theme()

    def _lay_out(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(6)
        shown = (self.image, self.annotate, self.look, self.train, self.review, self.result)
        for panel in (*shown, self.model):
            column.addWidget(panel)
            column.addWidget(_rule())
        column.addWidget(self.advanced)
        column.addStretch(1)
        inner.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        scroll = QScrollArea()
        scroll.setWidget(inner)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setMinimumWidth(WIDTH)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 4)
        outer.setSpacing(4)
        outer.addWidget(scroll, 1)
        outer.addWidget(self.status)

    @property
    def _panels(self) -> tuple[Panel, ...]:
        return self.image, self.annotate, self.look, self.review, self.result

    def sizeHint(self) -> QSize:
        """Narrow, and no taller than a small screen allows."""
        return QSize(WIDTH + 16, 560)

    def reset_choices(self, _: object = None) -> None:
        """Called by napari when layers come, go, move or change their name."""
        for panel in self._panels:
            panel.refresh()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Let the workbench live in the window."""
        super().showEvent(event)
        self._docked = self._docked or isinstance(self.parent(), QDockWidget)
        if (window := self.window()) is not None:
            self.workbench.live_in(window)

    def event(self, event: QEvent | None) -> bool:
        """Notice being taken out of the window: napari's close button does that."""
        taken = (
            event is not None
            and event.type() == QEvent.Type.ParentChange
            and self._docked
            and self.parent() is None
        )
        if taken:
            self.release()
        return super().event(event)

    def release(self) -> None:
        """Stop what runs and listen no more."""
        self._docked = False
        self.controller.stop()
        for panel in (*self._panels, self.train, self.model, self.advanced, self.status):
            panel.release()
        self._viewer.events.theme.disconnect(self._on_theme)
        layers = self._viewer.layers.events
        for signal in (layers.inserted, layers.removed, layers.reordered, layers.renamed):
            signal.disconnect(self.reset_choices)

    def _on_theme(self, _: object = None) -> None:
        self.setStyleSheet(stylesheet(self._viewer.theme))
        self.train.show_theme(self._viewer.theme)


def _rule() -> QFrame:
    rule = QFrame()
    rule.setProperty("role", "rule")
    rule.setFixedHeight(1)
    return rule
