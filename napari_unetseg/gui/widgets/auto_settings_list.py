"""Collapsed list of automatically chosen settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_unetseg.gui.widgets.section import folded, hint

if TYPE_CHECKING:
    from napari_unetseg.models.training_record import AutoSetting


class AutoSettingsList(QWidget):
    """Name, value and reason of each automatic setting; hidden while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self._rows = QWidget()
        self._grid = QGridLayout(self._rows)
        self._grid.setContentsMargins(2, 0, 0, 0)
        self._grid.setHorizontalSpacing(6)
        self._grid.setVerticalSpacing(1)
        self._grid.setColumnStretch(1, 1)
        self.fold = folded("Chosen for these images", self._rows)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.fold)
        self.hide()

    def show_choices(self, choices: Sequence[AutoSetting]) -> None:
        """Replace the list, in the given order."""
        while (item := self._grid.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for index, choice in enumerate(choices):
            name, value, reason = hint(choice.name), _value(choice.value), hint(choice.reason)
            for widget in (name, value, reason):
                widget.setToolTip(_how_to_change(choice))
            top = Qt.AlignmentFlag.AlignTop
            self._grid.addWidget(name, 2 * index, 0, top)
            self._grid.addWidget(value, 2 * index, 1, top)
            self._grid.addWidget(reason, 2 * index + 1, 1, top)
        self.setVisible(bool(choices))


def _value(text: str) -> QLabel:
    label = hint(text)
    label.setProperty("role", "value")
    return label


def _how_to_change(choice: AutoSetting) -> str:
    if not choice.setting:
        return "Derived from the images and labels."
    names = choice.setting.split(", ")
    each = ", ".join(f"'{name.replace('_', ' ').capitalize()}'" for name in names)
    if len(names) > 1:
        return f"The settings {each} override it."
    return f"The setting {each} overrides it."
