"""Live plot: losses on the left axis, scores on the right one, a legend below."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_unetseg.core.score_text import figure, score_text, score_word
from napari_unetseg.gui.state.contrast import LINES, mixed, readable
from napari_unetseg.gui.state.session import MarkKind
from napari_unetseg.gui.state.training_curve import Columns, Line, classes_to_show, finite
from napari_unetseg.gui.widgets.style_sheet import font_size

if TYPE_CHECKING:
    from napari_unetseg.core.labels import Structure
    from napari_unetseg.gui.state.session import Mark, Point

DRAW_MS = 250
"""Minimum interval between redraws."""
LINES_HIGH = 9
"""Height of the plot, in lines of text."""
MOST_MARKS = 60


class CurvePlot(QWidget):
    """Hidden until there is a curve; pyqtgraph is imported then."""

    switched = Signal(bool)
    """Whether the x-axis shows time."""

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.legend = QLabel()
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.over_time = QCheckBox("Plot over time")
        self.over_time.setToolTip("Time on the horizontal axis instead of steps.")
        self.over_time.toggled.connect(self._on_switched)
        column.addWidget(self.legend)
        column.addWidget(self.over_time)
        self.setToolTip("Losses and the score on held-out labels, after each epoch.")
        self._columns = Columns()
        self._marks: Sequence[Mark] = ()
        self._structures: dict[int, Structure] = {}
        self._theme = "dark"
        self._chart: Any = None
        self._redraw_timer = QTimer(self)
        self._redraw_timer.setSingleShot(True)
        self._redraw_timer.setInterval(DRAW_MS)
        self._redraw_timer.timeout.connect(self._on_redraw)
        self._dirty = False
        self.lines: tuple[Line, ...] = ()
        """The curves drawn last."""
        self.hide()

    def show_theme(self, theme: str) -> None:
        """Set the colours of a napari theme."""
        self._theme = theme
        if self._chart is not None:
            self._draw()

    def show_curve(
        self, points: Sequence[Point], marks: Sequence[Mark], structures: Sequence[Structure]
    ) -> None:
        """Draw the curve, immediately or after the interval."""
        self.setVisible(bool(points))
        self._columns.take(points)
        self._marks, self._structures = marks, {s.number: s for s in structures}
        self._dirty = bool(points)
        if self._dirty and not self._redraw_timer.isActive():
            self._on_redraw()

    def _on_redraw(self) -> None:
        if self._dirty:
            self._draw()
            self._redraw_timer.start()

    def _on_switched(self, over_time: bool) -> None:
        self._dirty = bool(self._columns.steps)
        self._on_redraw()
        self.switched.emit(over_time)

    def _draw(self) -> None:
        self._dirty = False
        if self._chart is None:
            from napari_unetseg.gui.widgets.chart import Chart

            self._chart = Chart()
            column = self.layout()
            assert isinstance(column, QVBoxLayout)
            column.insertWidget(0, self._chart)
        self._chart.setFixedHeight(LINES_HIGH * self.legend.fontMetrics().lineSpacing())
        theme = get_theme(self._theme)
        back, text = theme.background.as_hex(), theme.text.as_hex()
        self._chart.show_colors(back, text, f"{font_size()}pt")
        self.lines = tuple(self._lines(back, text))
        over_time = self.over_time.isChecked()
        self._chart.draw(self.lines, over_time=over_time)
        strokes = [m for m in self._marks if m.kind is MarkKind.STROKES]
        shown = _some([m for m in self._marks if m.kind is MarkKind.SHOWN])
        self._chart.mark(
            [self._place(m) for m in _some(strokes)],
            [(self._place(m), m.score or 0.0) for m in shown],
        )
        self.legend.setText(_legend(self.lines, bool(strokes), bool(shown), text))

    def _place(self, mark: Mark) -> float:
        return mark.seconds if self.over_time.isChecked() else mark.step

    def _lines(self, back: str, text: str) -> list[Line]:
        columns = self._columns
        x = columns.seconds if self.over_time.isChecked() else columns.steps
        dim = mixed(text, back, 0.7)
        lines = [
            Line("training loss", *finite(x, columns.loss), dim),
            Line("validation loss", *finite(x, columns.validation_loss), dim, dashed=True),
        ]
        scores = columns.newest
        word = score_word(scores) if scores else "score"
        several = len(columns.each) > 1
        for number in classes_to_show(columns.each) if several else ():
            structure = self._structures.get(number)
            name = structure.name if structure else f"structure {number}"
            color = readable(structure.color if structure else text, back, least=LINES)
            newest = columns.each[number][-1]
            if scores is not None and newest == newest:
                name += f" {figure(newest, on_strokes=scores.on_strokes)}"
            line = Line(f"{word} {name}", *finite(x, columns.each[number]), color, score=True)
            lines.append(line)
        name = f"{word} {score_text(scores)}" if scores else word
        lines.append(Line(name, *finite(x, columns.values), text, score=True, bold=several))
        return [line for line in lines if len(line.x)]


def _some(marks: list[Mark]) -> list[Mark]:
    """Evenly spaced marks if there are too many, including the last one."""
    if len(marks) <= MOST_MARKS:
        return marks
    chosen = np.linspace(0, len(marks) - 1, MOST_MARKS).astype(int)
    return [marks[i] for i in chosen]


def _legend(lines: Sequence[Line], strokes: bool, shown: bool, text: str) -> str:
    """Legend in text colour, each name beside a sample of its line."""
    entries = [("╍╍" if line.dashed else "━━", line.color, line.name) for line in lines]
    entries += [("●", text, "answer shown")] * shown + [("┊", text, "strokes added")] * strokes
    each = (
        f'<span style="white-space:nowrap"><span style="color:{color}">{sign}</span>&nbsp;'
        f"{escape(name).replace(' ', '&nbsp;')}</span>"
        for sign, color, name in entries
    )
    return " &nbsp; ".join(each)
