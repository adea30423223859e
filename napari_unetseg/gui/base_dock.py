"""Base class of the plugin's docks: window context, theme, closing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from napari.settings import get_settings
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QDockWidget, QWidget

from napari_unetseg.gui.widgets.style_sheet import stylesheet
from napari_unetseg.gui.window_context import WindowContext

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QShowEvent


class BaseDock(QWidget):
    """A dock of a napari window that shares the window's context."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy; layers are known by identity here, so the real one is needed
        viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._viewer = viewer
        self._attached = False
        self.context = WindowContext.of(viewer)
        self.plugin = self.context.plugin
        self.session = self.plugin.session

    def follow_theme(self) -> None:
        """Follow napari's theme and font size."""
        self._viewer.events.theme.connect(self._on_theme)
        get_settings().appearance.events.font_size.connect(self._on_theme)
        self._on_theme()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Attach the context to the window."""
        super().showEvent(event)
        self._attached = self._attached or isinstance(self.parent(), QDockWidget)
        window = self.window()
        while isinstance(window, QDockWidget) and window.parentWidget() is not None:
            window = window.parentWidget()  # a dock that floats belongs to a window too
        if window is not None:
            self.context.attach_to(window)
            self.shown_in(window)

    def shown_in(self, window: QWidget) -> None:
        """Called when the dock is shown in a window."""

    def event(self, event: QEvent | None) -> bool:
        """Release the dock when it leaves its window, as with napari's close button."""
        moved = event is not None and event.type() == QEvent.Type.ParentChange
        if moved and self._attached and self.parent() is None:
            self.release()
        return super().event(event)

    def release(self) -> None:
        """Disconnect from all events."""
        self._attached = False
        self._viewer.events.theme.disconnect(self._on_theme)
        get_settings().appearance.events.font_size.disconnect(self._on_theme)

    def _on_theme(self, _: object = None) -> None:
        with suppress(RuntimeError):  # Qt may have deleted the widget
            self.setStyleSheet(stylesheet(self._viewer.theme))
