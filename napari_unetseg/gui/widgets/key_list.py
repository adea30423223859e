"""The keys of the commands, each in a field that takes another one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QFormLayout, QKeySequenceEdit, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_unetseg.gui.keys import COMMANDS
from napari_unetseg.gui.widgets.section import hint

if TYPE_CHECKING:
    from napari_unetseg.gui.shortcuts import Shortcuts

__all__ = ["KeysForm"]


class KeysForm(QWidget):
    """A field for each command; what is refused is said below and put back."""

    def __init__(self, shortcuts: Shortcuts) -> None:
        super().__init__()
        self._shortcuts = shortcuts
        self.fields: dict[str, QKeySequenceEdit] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        form = QFormLayout()
        form.setVerticalSpacing(3)
        for command in COMMANDS:
            field = self.fields[command.id] = QKeySequenceEdit()
            field.setAccessibleName(f"Key of: {command.title}")
            field.setToolTip("Click, then press another key; Backspace leaves none.")
            field.editingFinished.connect(partial(self._on_edited, command.id))
            label = QLabel(command.title)
            label.setBuddy(field)
            form.addRow(label, field)
        column.addLayout(form)
        self.said = hint()
        self.said.setProperty("role", "refusal")
        column.addWidget(self.said)
        self.defaults = QPushButton("Give every command its own key again")
        self.defaults.clicked.connect(self._on_defaults_pressed)
        column.addWidget(self.defaults)
        shortcuts.rebound.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the keys that there are now."""
        for command, keys in self._shortcuts.keys.items():
            self.fields[command].blockSignals(True)
            self.fields[command].setKeySequence(QKeySequence(keys))
            self.fields[command].blockSignals(False)

    def _on_edited(self, command: str) -> None:
        field = self.fields[command]
        keys = field.keySequence().toString(QKeySequence.SequenceFormat.PortableText)
        if keys == self._shortcuts.keys[command]:
            return
        self._say(self._shortcuts.change(command, "" if keys == "Backspace" else keys))
        self.refresh()

    def _on_defaults_pressed(self) -> None:
        self._shortcuts.reset()
        self._say("")

    def _say(self, text: str) -> None:
        self.said.setText(text)
        self.said.setVisible(bool(text))
