"""Commands with a keyboard shortcut, and their default keys; no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HELP = "help"
BRUSHES = 9
"""Structures whose brush has a key: those with a single-digit number."""
BRUSH_MODIFIER = "brush_modifier"
"""The preference with the modifier key of all brushes, held down with the digit."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command; ``keys`` is its default shortcut in Qt's notation, such as ``Shift+T``."""

    id: str
    title: str
    keys: str


COMMANDS = (
    Command("train", "Train, or stop what runs", "Shift+T"),
    Command("predict", "Predict what is on screen", "Shift+M"),
    Command("new_layer", "New annotation layer", "Shift+N"),
    Command("show_mask", "Show or hide the prediction", "Shift+H"),
    Command("next", "Next place to label", "Shift+J"),
    Command("accept_object", "Accept the object under the mouse", "Shift+G"),
    Command("accept_plane", "Accept the plane on screen", "Shift+W"),
    Command("object_paint", "Paint a new object", "N"),
    Command("object_merge", "Merge objects with a drag across them", "J"),
    Command("object_split", "Split an object with a drag through it", "K"),
    Command("object_delete", "Delete an object with a click", "W"),
    Command("object_accept", "Accept an object with a click", "G"),
    Command("undo", "Undo what the plugin did (strokes: Ctrl+Z)", "Shift+U"),
    *(Command(f"brush_{n}", f"Brush of structure {n}", f"Alt+{n}") for n in range(1, BRUSHES + 1)),
    Command("brush_background", "Background brush", "Alt+0"),
    Command(HELP, "This help", "F1"),
)
"""No default is a shortcut of napari; Alt and a digit works on any keyboard layout."""


def keys_of(preferences: Mapping[str, str]) -> dict[str, str]:
    """Keys of each command, by its id; empty if it has none.

    Parameters
    ----------
    preferences
        Keys by the id of a command, and `BRUSH_MODIFIER`; missing entries have their default.
    """
    keys = {c.id: preferences.get(c.id, c.keys) for c in COMMANDS}
    modifier = preferences.get(BRUSH_MODIFIER)
    if modifier is None:
        return keys
    brushes = {c.id: c.keys.removeprefix("Alt+") for c in COMMANDS if c.id.startswith("brush_")}
    return keys | {brush: modifier and f"{modifier}+{digit}" for brush, digit in brushes.items()}
