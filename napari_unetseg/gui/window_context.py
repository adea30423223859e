"""Context of a window shared by its docks: plugin, worker and timer."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, ref

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication

from napari_unetseg.gui.binding import keep_constants_alive
from napari_unetseg.gui.gl_context import CanvasContext
from napari_unetseg.gui.import_torch import import_torch
from napari_unetseg.gui.layers.plane_prefetch import PlanePrefetch
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.gui.shortcuts.bindings import Shortcuts
from napari_unetseg.gui.shortcuts.commands import HELP
from napari_unetseg.gui.state.preferences import read_preferences
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget

    from napari_unetseg.gui.state.session import Message
    from napari_unetseg.gui.widgets.help_page import HelpDialog

TICK_MS = 40
REST_SECONDS = 4.0
"""Seconds without mouse movement after which the user counts as idle."""

_benches: WeakValueDictionary[int, WindowContext] = WeakValueDictionary()


class WindowContext(QObject):
    """Runs the plugin of a window from Qt's event loop."""

    def __init__(self, viewer: ViewerModel) -> None:
        keep_constants_alive()
        super().__init__()
        self.closed = False
        self.setObjectName("napari-unetseg")
        runner = ThreadRunner(import_torch)
        self.plugin = Plugin(viewer, runner, preferences=read_preferences)
        actions = {**self.plugin.actions(), HELP: self.show_help}
        self.keys = Shortcuts(self.plugin.session, actions, self)
        self.keys.rebound.connect(self._on_rebound)
        self.keys.ended.connect(self._close_help)
        self.help: HelpDialog | None = None
        self.prefetch = PlanePrefetch(viewer)
        self._canvas_context = CanvasContext(viewer)
        self.plugin.session.events.message.connect(self._on_message)
        self.plugin.events.labels_touched.connect(self._on_labels_touched)
        self._window: ref[QWidget] | None = None
        self._cursor, self._moved = QCursor.pos(), time.monotonic()
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._on_tick)
        self._timer.start()
        self._deferred = QTimer(
            self
        )  # not `QTimer.singleShot`: PySide6 calls what is deleted by then
        self._deferred.setSingleShot(True)
        self._deferred.timeout.connect(self._on_maybe_closed)
        self.destroyed.connect(partial(_end, self.plugin, self.prefetch))
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)

    @classmethod
    def of(cls, viewer: ViewerModel) -> WindowContext:
        """The context of a viewer; created on first use."""
        bench = _benches.get(id(viewer))
        if bench is None or bench.closed:
            bench = _benches[id(viewer)] = cls(viewer)
        return bench

    # -- help ----------------------------------------------------------------------------------

    def show_help(self) -> None:
        """Open the help, or bring it to the front."""
        if self.help is None:
            from napari_unetseg.gui.widgets.help_page import HelpDialog

            self.help = HelpDialog(self.plugin.viewer, self.keys.keys, self.keys.window)
        self.help.show()
        self.help.raise_()
        self.help.activateWindow()

    def _on_rebound(self) -> None:
        if self.help is not None:
            self.help.show_keys(self.keys.keys)

    def _close_help(self) -> None:
        if self.help is not None:
            with suppress(RuntimeError):  # Qt may have deleted it
                self.help.release()
                self.help.deleteLater()
        self.help = None

    # -- life ----------------------------------------------------------------------------------

    def attach_to(self, window: QWidget) -> None:
        """Bind the lifetime to a window's."""
        if self._window is None or window is not self._window():
            self._window = ref(window)
            self.setParent(window)
            window.installEventFilter(self)

    def eventFilter(self, _: QObject | None, event: QEvent | None) -> bool:
        """Notice the window's close event; napari may still refuse it, so check a moment later."""
        if event is not None and event.type() == QEvent.Type.Close:
            self._deferred.start(0)
        return False

    def _on_maybe_closed(self) -> None:
        window = self._window() if self._window is not None else None
        if window is None or not window.isVisible():
            self.close()

    def close(self) -> None:
        """Stop running work, wait for it, and release everything."""
        if not self.closed:
            self.closed = True
            with suppress(RuntimeError):  # Qt may have deleted it with the window
                self._timer.stop()
            self.keys.end_all()
            _end(self.plugin, self.prefetch)

    def _on_tick(self) -> None:
        position = QCursor.pos()
        if position != self._cursor:
            self._cursor, self._moved = position, time.monotonic()
        self.plugin.tick(resting=time.monotonic() - self._moved > REST_SECONDS)

    def _on_labels_touched(self) -> None:
        self._moved = time.monotonic()

    def _on_message(self, message: Message) -> None:
        if message.level is Level.ERROR:
            show_error(message.text)


def _end(plugin: Plugin, prefetch: PlanePrefetch, _: Any = None) -> None:
    """Clean up without showing anything: the widgets may be deleted already."""
    prefetch.close()
    for name in plugin.session.events:
        plugin.session.events[name].disconnect()
    plugin.close()
