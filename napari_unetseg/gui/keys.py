"""Commands with a keyboard shortcut, their default keys, and what each of them does; no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_unetseg.core.labels import BRUSH
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari_unetseg.gui.plugin import Plugin

__all__ = ["BRUSH_MODIFIER", "COMMANDS", "HELP", "Command", "act", "keys_of"]

HELP = "help"
BRUSHES = 9
BRUSH_MODIFIER = "brush_modifier"
"""The preference that the keys of all brushes share: what is held down with the digit."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command; ``keys`` is its default shortcut as Qt writes it, such as ``Shift+T``."""

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
    Command("undo", "Undo what the plugin did (strokes: Ctrl+Z)", "Shift+U"),
    *(Command(f"brush_{n}", f"Brush of structure {n}", f"Alt+{n}") for n in range(1, BRUSHES + 1)),
    Command("brush_background", "Background brush", "Alt+0"),
    Command(HELP, "This help", "F1"),
)
"""No default is a shortcut of napari; Alt and a digit is typed alike on any keyboard."""


def keys_of(preferences: Mapping[str, str]) -> dict[str, str]:
    """Keys of each command, by its id; empty where it has none.

    Parameters
    ----------
    preferences
        Keys by the id of a command, and `BRUSH_MODIFIER`; what is missing has its default.
    """
    keys = {c.id: preferences.get(c.id, c.keys) for c in COMMANDS}
    modifier = preferences.get(BRUSH_MODIFIER)
    if modifier is None:
        return keys
    brushes = {c.id: c.keys.removeprefix("Alt+") for c in COMMANDS if c.id.startswith("brush_")}
    return keys | {brush: modifier and f"{modifier}+{digit}" for brush, digit in brushes.items()}


def act(plugin: Plugin, command: str) -> None:
    """Do what a command says; what cannot be done now is said in the status line."""
    match command:
        case "train":
            _train_or_stop(plugin)
        case "predict":
            plugin.prediction.predict_plane()
        case "new_layer":
            plugin.sources.new_annotation()
        case "show_mask":
            _show_or_hide(plugin)
        case "next":
            plugin.next_region.next_region()
        case "accept_object":
            plugin.review.accept_object()
        case "accept_plane":
            plugin.review.accept_plane()
        case "undo":
            plugin.undo.undo()
        case "brush_background":
            plugin.structures.choose_brush(BRUSH)
        case _ if command.startswith("brush_"):
            _take_brush(plugin, int(command.removeprefix("brush_")))


def _train_or_stop(plugin: Plugin) -> None:
    job = plugin.session.job
    if job is None:
        plugin.training.start()
    elif not job.stopping:
        plugin.jobs.stop()


def _show_or_hide(plugin: Plugin) -> None:
    prediction = plugin.masks.current
    if prediction is None or not prediction.alive or prediction.layer is None:
        plugin.session.say(messages.NO_PREDICTION, Level.WARNING)
    else:
        napari_layers.show_or_hide(prediction.layer)


def _take_brush(plugin: Plugin, number: int) -> None:
    session = plugin.session
    if number in {s.number for s in session.structures}:
        plugin.structures.choose_brush(number)
    else:
        session.say(
            f"There is no structure {number}; press '+ Structure' to add one.", Level.WARNING
        )
