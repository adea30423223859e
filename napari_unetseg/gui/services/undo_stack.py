"""Undo stack of the plugin, beside napari's undo of strokes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

MOST = 50


@dataclass(frozen=True, slots=True, eq=False)
class UndoStep:
    """An action on an image that can be undone; ``text`` completes "Undo …"."""

    image: Any
    text: str
    undo: Callable[[], None]
    redo: Callable[[], None]


class UndoStack:
    """Actions that can be undone and redone; the session shows the newest of both."""

    def __init__(self, session: Session, events: AppEvents) -> None:
        self._session = session
        self._done: list[UndoStep] = []
        self._undone: list[UndoStep] = []
        events.image_removed.connect(self._on_image_removed)

    def add(self, step: UndoStep) -> None:
        """Add an action."""
        self._done = [*self._done, step][-MOST:]
        self._undone.clear()
        self._show()

    def undo(self) -> None:
        """Undo the newest action."""
        if not self._done:
            self._session.say(
                "There is no action of the plugin to undo; to undo strokes press Ctrl+Z."
            )
            return
        step = self._done.pop()
        step.undo()
        self._undone.append(step)
        self._session.say(f"Undone: {step.text}.")
        self._show()

    def redo(self) -> None:
        """Redo the action that was undone last."""
        if not self._undone:
            self._session.say(
                "There is no action of the plugin to redo; to redo strokes press Ctrl+Shift+Z."
            )
            return
        step = self._undone.pop()
        step.redo()
        self._done.append(step)
        self._session.say(f"Done again: {step.text}.")
        self._show()

    def _on_image_removed(self, image: Any) -> None:
        self._done = [step for step in self._done if step.image is not image]
        self._undone = [step for step in self._undone if step.image is not image]
        self._show()

    def _show(self) -> None:
        self._session.undoable = self._done[-1].text if self._done else ""
        self._session.redoable = self._undone[-1].text if self._undone else ""
