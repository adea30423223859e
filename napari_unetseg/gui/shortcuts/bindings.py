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
        What each command does, by its id.
    parent
        Lives as long as the viewer.
    """

    rebound = Signal()
    """The keys are others now."""
    ended = Signal()
    """The last dock was closed, or its window."""

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
        """Keys of each command, as Qt writes them; empty where it has none."""
        return keys_of(read_shortcuts())

    @property
    def bound(self) -> dict[str, QShortcut]:
        """The shortcuts of the window, by command; one without a key is missing."""
        return dict(self._bound)

    @property
    def window(self) -> QWidget | None:
        """The window that they work in."""
        return None if self._lives_in is None else self._lives_in()

    # -- a window and its docks ----------------------------------------------------------------

    def begin(self, window: QWidget) -> None:
        """A dock opens in a window, so the keys work there."""
        self._docks += 1
        if self._docks == 1:
            self._lives_in = ref(window)
            self._unwatch = watch_shortcuts(self._on_changed)
        self._bind()

    def end(self) -> None:
        """A dock closes; with the last one the keys go."""
        self._docks -= 1
        if self._docks == 0:
            self._release()

    def end_all(self) -> None:
        """The window closes."""
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
            with suppress(RuntimeError):  # gone with the window
                shortcut.setEnabled(False)
                shortcut.setParent(None)
                shortcut.deleteLater()
        self._bound.clear()

    def _on_changed(self, _: object = None) -> None:
        """Other keys were set under Preferences; the window may be gone already."""
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
        """Whatever is typed into a field is text."""
        editable = isinstance(now, QComboBox) and now.isEditable()
        typing = isinstance(now, TYPED_IN) or editable
        for shortcut in self._bound.values():
            with suppress(RuntimeError):
                shortcut.setEnabled(not typing)
