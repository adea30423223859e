"""Key bindings of a window, active while a dock is open and nobody types text."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QShortcut,
    QTextEdit,
    QWidget,
)

from napari_unetseg.gui.shortcuts.commands import keys_of
from napari_unetseg.gui.state.preferences import read_shortcuts, watch_shortcuts
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_unetseg.gui.state.session import Session

TYPED_IN = (QLineEdit, QTextEdit, QPlainTextEdit, QAbstractSpinBox)


class Shortcuts(QObject):
    """Binds the commands to the keys of the preferences in one window.

    Parameters
    ----------
    actions
        The function of each command, by its id.
    parent
        Parent object, which lives as long as the viewer.
    """

    rebound = Signal()
    """Emitted when the keys have changed."""
    ended = Signal()
    """Emitted when the last dock, or its window, was closed."""

    def __init__(
        self, session: Session, actions: Mapping[str, Callable[[], None]], parent: QObject
    ) -> None:
        super().__init__(parent)
        self._session, self._actions = session, actions
        self._lives_in: ref[QWidget] | None = None
        self._bound: dict[str, QShortcut] = {}
        self._docks = 0
        self._unwatch: Callable[[], None] | None = None
        application = QApplication.instance()
        if isinstance(application, QApplication):  # Qt ends this connection with the object
            application.focusChanged.connect(self._on_focus)

    @property
    def keys(self) -> dict[str, str]:
        """Keys of each command, in Qt's notation; empty if it has none."""
        return keys_of(read_shortcuts())

    @property
    def bound(self) -> dict[str, QShortcut]:
        """The active shortcuts by command; commands without a key are missing."""
        return dict(self._bound)

    @property
    def window(self) -> QWidget | None:
        """The window in which the shortcuts are active."""
        return None if self._lives_in is None else self._lives_in()

    # -- a window and its docks ----------------------------------------------------------------

    def begin(self, window: QWidget) -> None:
        """Activate the shortcuts in a window when a dock opens."""
        self._docks += 1
        if self._docks == 1:
            self._lives_in = ref(window)
            self._unwatch = watch_shortcuts(self._on_changed)
        self._bind()

    def end(self) -> None:
        """Release a dock; with the last one the shortcuts are removed."""
        self._docks -= 1
        if self._docks == 0:
            self._release()

    def end_all(self) -> None:
        """Remove all shortcuts when the window closes."""
        if self._docks > 0:
            self._docks = 0
            self._release()

    def _release(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
        self._unwatch = None
        self._unbind()
        self._lives_in = None
        self.ended.emit()

    def _unbind(self) -> None:
        for shortcut in self._bound.values():
            with suppress(RuntimeError):  # deleted with the window
                shortcut.setEnabled(False)
                shortcut.setParent(None)
                shortcut.deleteLater()
        self._bound.clear()

    def _on_changed(self, _: object = None) -> None:
        """Bind the keys again after they changed; the window may be closed already."""
        with suppress(RuntimeError):
            self._bind()
            self.rebound.emit()

    def _bind(self) -> None:
        self._unbind()
        window = self.window
        if window is None:
            return
        for command, keys in self.keys.items():
            sequence = QKeySequence(keys)
            if sequence.isEmpty():
                continue
            shortcut = QShortcut(sequence, window)
            shortcut.setAutoRepeat(False)
            shortcut.activated.connect(self._actions[command])
            shortcut.activatedAmbiguously.connect(partial(self._on_ambiguous, keys))
            self._bound[command] = shortcut
        self._on_focus(None, QApplication.focusWidget())

    def _on_ambiguous(self, keys: str) -> None:
        self._session.say(
            f"{keys} is the key of two commands; change one under File ▸ Preferences.",
            Level.WARNING,
        )

    def _on_focus(self, _: QWidget | None, now: QWidget | None) -> None:
        """Disable the shortcuts while the user types into a field."""
        editable = isinstance(now, QComboBox) and now.isEditable()
        typing = isinstance(now, TYPED_IN) or editable
        for shortcut in self._bound.values():
            with suppress(RuntimeError):
                shortcut.setEnabled(not typing)
