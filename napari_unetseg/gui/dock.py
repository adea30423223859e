"""The dock: panels one below the other, as the work goes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from napari.settings import get_settings
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_unetseg.gui.focus import FocusOrder
from napari_unetseg.gui.panels.advanced import AdvancedPanel
from napari_unetseg.gui.panels.annotate import AnnotatePanel
from napari_unetseg.gui.panels.attention import LookPanel
from napari_unetseg.gui.panels.base import Panel, row
from napari_unetseg.gui.panels.image import ImagePanel
from napari_unetseg.gui.panels.look import stylesheet
from napari_unetseg.gui.panels.model import ModelPanel
from napari_unetseg.gui.panels.project import ProjectPanel
from napari_unetseg.gui.panels.result import ResultPanel
from napari_unetseg.gui.panels.review import ReviewPanel
from napari_unetseg.gui.panels.status import StatusPanel
from napari_unetseg.gui.panels.train import TrainPanel
from napari_unetseg.gui.panels.welcome import WelcomePanel
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
        self.project = ProjectPanel(self.controller)
        self.controller.looking.watched = True
        self.image = ImagePanel(self.controller)
        self.annotate = AnnotatePanel(self.controller)
        self.look = LookPanel(self.controller)
        self.train = TrainPanel(self.controller)
        self.review = ReviewPanel(self.controller)
        self.result = ResultPanel(self.controller)
        self.model = ModelPanel(self.controller)
        self.advanced = AdvancedPanel(self.controller)
        self.status = StatusPanel(self.controller)
        self.welcome = WelcomePanel(self.controller)
        self.help = QPushButton("?")
        self.help.setAccessibleName("Help")
        self.help.setToolTip("What to press in which order, the keys, what the numbers mean.")
        self.help.clicked.connect(self.workbench.keys.show_help)
        self._has_keys = False
        self._lay_out()
        viewer.events.theme.connect(self._on_theme)
        get_settings().appearance.events.font_size.connect(self._on_theme)
        self._on_theme()

    def _lay_out(self) -> None:
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(6)
        column.addWidget(self.welcome)
        for panel in (
            self.project,
            self.image,
            self.annotate,
            self.look,
            self.train,
            self.review,
            self.result,
            self.model,
        ):
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
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 4)
        outer.setSpacing(4)
        outer.addWidget(scroll, 1)
        foot = row(self.status, self.help, stretch=0)
        foot.setContentsMargins(8, 0, 8, 0)
        outer.addLayout(foot)
        FocusOrder(inner, self.help)

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
        window = self.window()
        while isinstance(window, QDockWidget) and window.parentWidget() is not None:
            window = window.parentWidget()  # a dock that floats belongs to a window too
        if window is not None:
            self.workbench.live_in(window)
            if not self._has_keys:
                self._has_keys = True
                self.workbench.keys.begin(window)

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
        self.controller.looking.watched = False
        if self._has_keys:
            self._has_keys = False
            self.workbench.keys.end()
        training = (self.train, self.model, self.advanced)
        for panel in (*self._panels, *training, self.project, self.status, self.welcome):
            panel.release()
        self._viewer.events.theme.disconnect(self._on_theme)
        get_settings().appearance.events.font_size.disconnect(self._on_theme)
        layers = self._viewer.layers.events
        for signal in (layers.inserted, layers.removed, layers.reordered, layers.renamed):
            signal.disconnect(self.reset_choices)

    def _on_theme(self, _: object = None) -> None:
        with suppress(RuntimeError):  # gone with its window, while napari's settings live on
            self.setStyleSheet(stylesheet(self._viewer.theme))
            self.train.show_theme(self._viewer.theme)


def _rule() -> QFrame:
    rule = QFrame()
    rule.setProperty("role", "rule")
    rule.setFixedHeight(1)
    return rule
