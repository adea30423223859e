"""Which keys are taken already: by napari, by its layers, by menus and other docks of a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import napari.layers
from app_model import Application
from app_model.backends.qt import qkeysequence2modelkeybinding
from napari.settings import get_settings
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QAbstractButton, QAction, QLabel, QShortcut, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["normal", "taken"]

LAYERS = ("Image", "Labels", "Points", "Shapes", "Surface", "Tracks", "Vectors")
MOVING = (
    *("Tab", "Shift+Tab", "Return", "Enter", "Esc", "Space", "Backspace", "Del", "Home", "End"),
    *("Left", "Right", "Up", "Down", "PgUp", "PgDown"),
)
"""What moves about in a window, presses its buttons and closes its dialogs."""
COPYING = ("Ctrl+C", "Ctrl+V", "Ctrl+X", "Ctrl+A", "Ctrl+Z", "Ctrl+Y", "Ctrl+Shift+Z")


def normal(keys: str) -> str:
    """One way to write a key, such as ``Alt+1``; of several keys in a row only the first counts.

    napari does not see Shift beside a digit or a sign, so these count without it.
    """
    first = QKeySequence(keys.split(", ")[0])
    if first.isEmpty():
        return ""
    part = qkeysequence2modelkeybinding(first).part0
    text = str(part)
    key = text.rsplit("+", 1)[-1]
    sign = len(key) == 1 and not key.isalpha()
    return text.replace("Shift+", "") if sign and part.shift and not part.ctrl else text


def taken(viewer: ViewerModel, window: QWidget | None, ours: set[QShortcut]) -> dict[str, str]:
    """Each key that something else has, written as `normal` does, and who has it.

    Parameters
    ----------
    viewer
        Its own keys, those of its layers and of all kinds of layers count.
    window
        Its actions, shortcuts and mnemonics count.
    ours
        Shortcuts of the window that do not count.
    """
    found = dict.fromkeys((normal(k) for k in MOVING), "moving about in the window")
    found |= dict.fromkeys((normal(k) for k in COPYING), "copying and undoing")
    if window is not None:
        found |= {normal(keys): who for keys, who in _of_window(window, ours) if keys}
    for keys, who in _of_napari(viewer):
        found[normal(keys)] = who
    found.pop("", None)
    return found


def _of_napari(viewer: ViewerModel) -> Iterator[tuple[str, str]]:
    for kind in LAYERS:
        for keys in getattr(napari.layers, kind).class_keymap:
            yield str(keys), f"napari's {kind} layers"
    for keys in (*type(viewer).class_keymap, *viewer.keymap):
        yield str(keys), "the viewer"
    for layer in viewer.layers:
        for keys in layer.keymap:
            yield str(keys), f"the layer {layer.name}"
    application = Application.get_app("napari")
    if application is not None:
        for binding in application.keybindings:
            command = application.commands[binding.command_id].title
            yield str(binding.keybinding), f"napari's '{command}'"
    for action, bindings in get_settings().shortcuts.shortcuts.items():
        name = action.removeprefix("napari:").replace("_", " ")
        for keys in bindings:
            yield str(keys), f"napari's '{name}'"


def _of_window(window: QWidget, ours: set[QShortcut]) -> Iterator[tuple[str, str]]:
    for action in window.findChildren(QAction):
        title = action.text().replace("&", "")
        for keys in (*action.shortcuts(), QKeySequence.mnemonic(action.text())):
            yield keys.toString(), f"the menu entry '{title}'"
    for shortcut in window.findChildren(QShortcut):
        if shortcut not in ours:
            yield shortcut.key().toString(), "another part of the window"
    for button in window.findChildren(QAbstractButton):
        title = button.text().replace("&", "")
        yield QKeySequence.mnemonic(button.text()).toString(), f"the button '{title}'"
    for label in window.findChildren(QLabel):
        if label.buddy() is not None:
            title = label.text().replace("&", "")
            yield QKeySequence.mnemonic(label.text()).toString(), f"'{title}'"
