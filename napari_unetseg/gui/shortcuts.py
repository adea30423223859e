"""Keys of a window: bound while a dock is open, silent while somebody types."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from napari.settings import get_settings
from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QKeySequenceEdit,
    QLineEdit,
    QPlainTextEdit,
    QShortcut,
    QTextEdit,
    QWidget,
)

from napari_unetseg.gui.keys import COMMANDS, HELP, act
from napari_unetseg.gui.state.user_state import remembered
from napari_unetseg.gui.taken import normal, taken

if TYPE_CHECKING:
    from napari_unetseg.gui.plugin import Plugin
    from napari_unetseg.gui.widgets.help_page import HelpDialog

__all__ = ["Shortcuts"]

KEYS = "keys"
TYPED_IN = (QLineEdit, QTextEdit, QPlainTextEdit, QAbstractSpinBox, QKeySequenceEdit)


class Shortcuts(QObject):
    """Binds the commands to keys in one window and lets the user change them.

    Keys that napari or something else in the window has are left alone, also where the user gives
    them to napari later.

    Parameters
    ----------
    plugin
        Does what the commands say.
    parent
        Lives as long as the viewer.
    """

    rebound = Signal()
    """The keys are others now."""

    def __init__(self, plugin: Plugin, parent: QObject) -> None:
        super().__init__(parent)
        self.plugin = plugin
        self._lives_in: ref[QWidget] | None = None
        self._bound: dict[str, QShortcut] = {}
        self._help: HelpDialog | None = None
        self._docks = 0
        application = QApplication.instance()
        if isinstance(application, QApplication):  # Qt ends this connection with the object
            application.focusChanged.connect(self._on_focus)

    @property
    def keys(self) -> dict[str, str]:
        """Keys of each command, as Qt writes them; empty where it has none."""
        changed = remembered.texts(KEYS)
        return {c.id: changed.get(c.id, c.keys) for c in COMMANDS}

    @property
    def bound(self) -> dict[str, QShortcut]:
        """What works now; a command is missing where something else has its key."""
        return dict(self._bound)

    @property
    def help(self) -> HelpDialog | None:
        """The help, once it was shown."""
        return self._help

    @property
    def _window(self) -> QWidget | None:
        return None if self._lives_in is None else self._lives_in()

    # -- a window and its docks ----------------------------------------------------------------

    def begin(self, window: QWidget) -> None:
        """A dock opens in a window, so the keys work there."""
        self._docks += 1
        if self._docks == 1:
            self._lives_in = ref(window)
            remembered.changed.connect(self._on_changed)
            get_settings().shortcuts.events.shortcuts.connect(self._on_changed)
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
        remembered.changed.disconnect(self._on_changed, missing_ok=True)
        get_settings().shortcuts.events.shortcuts.disconnect(self._on_changed)
        self._unbind()
        if self._help is not None:
            with suppress(RuntimeError):
                self._help.release()
                self._help.deleteLater()
        self._help = self._lives_in = None

    def _unbind(self) -> None:
        for shortcut in self._bound.values():
            with suppress(RuntimeError):  # gone with the window
                shortcut.setEnabled(False)
                shortcut.setParent(None)
                shortcut.deleteLater()
        self._bound.clear()

    def _on_changed(self, _: object = None) -> None:
        """Other keys were chosen, here or in another window; this one may be gone already."""
        with suppress(RuntimeError):
            self._bind()
            self.rebound.emit()

    def _bind(self) -> None:
        self._unbind()
        window = self._window
        if window is None:
            return
        others = self._others()
        for command, keys in self.keys.items():
            if not keys or normal(keys) in others:
                continue
            shortcut = QShortcut(QKeySequence(keys), window)
            shortcut.setAutoRepeat(False)
            shortcut.activated.connect(partial(self.do, command))
            self._bound[command] = shortcut
        self._on_focus(None, QApplication.focusWidget())

    def _others(self) -> dict[str, str]:
        return taken(self.plugin.viewer, self._window, set(self._bound.values()))

    def _on_focus(self, _: QWidget | None, now: QWidget | None) -> None:
        """Whatever is typed into a field is text."""
        editable = isinstance(now, QComboBox) and now.isEditable()
        typing = isinstance(now, TYPED_IN) or editable
        for shortcut in self._bound.values():
            with suppress(RuntimeError):
                shortcut.setEnabled(not typing)

    def do(self, command: str) -> None:
        """Do what a command says."""
        if command == HELP:
            self.show_help()
        else:
            act(self.plugin, command)

    # -- changing ------------------------------------------------------------------------------

    def refusal(self, command: str, keys: str) -> str:
        """Why a command cannot have these keys, as a sentence; empty where it can."""
        if not keys:
            return ""
        shown = QKeySequence(keys).toString(QKeySequence.SequenceFormat.NativeText)
        if ", " in keys:
            return f"{shown} are several keys in a row; choose a single one, such as Shift+K."
        for other in COMMANDS:
            if other.id != command and normal(self.keys[other.id]) == normal(keys):
                return f"{shown} is '{other.title}' already; change that first, or choose another."
        who = self._others().get(normal(keys))
        return f"{shown} belongs to {who}; choose another key." if who else ""

    def change(self, command: str, keys: str) -> str:
        """Give a command other keys, or none; returns the refusal, or nothing."""
        sentence = self.refusal(command, keys)
        if not sentence:
            remembered.put(KEYS, remembered.texts(KEYS) | {command: keys})
        return sentence

    def reset(self) -> None:
        """Give every command its own keys again."""
        remembered.put(KEYS, {})

    # -- help ----------------------------------------------------------------------------------

    def show_help(self) -> None:
        """Show the help, or bring it to the front."""
        if self._help is None:
            from napari_unetseg.gui.widgets.help_page import HelpDialog

            self._help = HelpDialog(self, self._window)
        self._help.show()
        self._help.raise_()
        self._help.activateWindow()
