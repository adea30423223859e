"""List of structures and the background brush; a click selects the brush."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFrame, QLabel, QLineEdit, QToolButton, QVBoxLayout, QWidget

from napari_unetseg.core.labels import BACKGROUND_LABEL, default_color
from napari_unetseg.core.score_text import class_values, figure, score_title
from napari_unetseg.gui.widgets.section import restyle, row

if TYPE_CHECKING:
    from qtpy.QtGui import QKeyEvent, QMouseEvent

    from napari_unetseg.core.labels import Structure
    from napari_unetseg.core.metrics import Scores


class BrushRow(QFrame):
    """One brush: colour, number, name, number of labelled pixels."""

    chosen = Signal(int)
    renamed = Signal(int, str)
    menu_requested = Signal(int)

    def __init__(self, number: int, name: str, color: str) -> None:
        super().__init__()
        self.number = number
        self.setProperty("role", "brush")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(f"Brush {number}, {name}")
        self.swatch = QLabel()
        self.swatch.setFixedSize(14, 14)
        self.show_color(color)
        figure = QLabel(str(number))
        figure.setMinimumWidth(figure.fontMetrics().horizontalAdvance("2555"))
        self.name = QLineEdit(name)
        self.name.setAccessibleName(f"Name of structure {number}")
        self.count = QLabel()
        self.count.setProperty("role", "hint")
        self.score = QLabel()
        self.score.setProperty("role", "hint")
        self.more = QToolButton()
        self.more.setText("⋯")
        self.more.setToolTip(f"Colour, objects or areas, merge or delete {name}.")
        self.more.setAccessibleName(f"More about {name}")
        self.more.clicked.connect(partial(self.menu_requested.emit, number))
        self.more.setVisible(number != BACKGROUND_LABEL)
        parts = (self.swatch, figure, self.name, self.count, self.score, self.more)
        layout = row(*parts, stretch=2)
        layout.setContentsMargins(6, 3, 6, 3)
        self.setLayout(layout)
        if number == BACKGROUND_LABEL:
            self.name.setReadOnly(True)
            self.name.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            self.name.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            self.setToolTip(
                "The background brush, number 255: paint it where no structure is. Unpainted "
                "voxels are not taken for background."
            )
        else:
            self.name.editingFinished.connect(self._on_renamed)
            self.setToolTip(
                f"Click to paint with number {number}; it is the number in the mask too. "
                "Double-click the name to change it."
            )

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Space and Enter select the brush."""
        key = event.key() if event is not None else None
        if key in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.chosen.emit(self.number)
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: ARG002
        """Select the brush."""
        self.chosen.emit(self.number)

    def show_color(self, color: str) -> None:
        """Set the structure's colour."""
        self.swatch.setStyleSheet(f"background: {color}; border-radius: 3px;")

    def _on_renamed(self) -> None:
        self.renamed.emit(self.number, self.name.text())


class BrushList(QWidget):
    """Rows of brushes, with signals for clicks, renaming and menus."""

    chosen = Signal(int)
    renamed = Signal(int, str)
    menu_requested = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[int, BrushRow] = {}
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(1)

    def row_of(self, number: int) -> BrushRow:
        """The row of a number; 255 is the background brush."""
        return self._rows[number]

    def show_structures(self, structures: tuple[Structure, ...]) -> None:
        """Set the structures; the background brush comes last."""
        wanted = {s.number: (s.name, s.color) for s in structures}
        wanted[BACKGROUND_LABEL] = ("background", default_color(BACKGROUND_LABEL))
        if list(wanted) == list(self._rows):
            for number, (name, color) in wanted.items():
                self._rows[number].name.setText(name)
                self._rows[number].show_color(color)
                self._rows[number].setAccessibleName(f"Brush {number}, {name}")
            return
        for old in self._rows.values():
            self._column.removeWidget(old)
            old.setParent(None)
            old.deleteLater()
        self._rows = {n: BrushRow(n, name, color) for n, (name, color) in wanted.items()}
        for new in self._rows.values():
            new.chosen.connect(self.chosen)
            new.renamed.connect(self.renamed)
            new.menu_requested.connect(self.menu_requested)
            self._column.addWidget(new)

    def show_counts(self, counts: dict[int, int]) -> None:
        """Set the number of labelled pixels of each row."""
        for number, one in self._rows.items():
            found = counts.get(number, 0)
            one.count.setText(f"{found:,} px" if found else "–")

    def show_scores(self, scores: Scores | None) -> None:
        """Show the score of each class, where there is one."""
        values = {} if scores is None else class_values(scores)
        for number, one in self._rows.items():
            value = values.get(0 if number == BACKGROUND_LABEL else number)
            if scores is None or value is None:
                one.score.setText("")
                continue
            one.score.setText(figure(value, on_strokes=scores.on_strokes))
            one.score.setToolTip(f"{score_title(scores)}, after the last training.")

    def show_chosen(self, number: int) -> None:
        """Mark the selected brush."""
        for each, one in self._rows.items():
            chosen = "true" if each == number else "false"
            if one.property("chosen") != chosen:
                restyle(one, chosen=chosen)
