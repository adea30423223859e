"""Quality over time: the Dice of each plane's first mask over minutes of annotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFrame, QVBoxLayout

from napari_unetseg.gui.state.contrast import LINES, readable
from napari_unetseg.gui.widgets.curve_plot import LINES_HIGH
from napari_unetseg.gui.widgets.section import hint
from napari_unetseg.gui.widgets.style_sheet import ACTION, font_size

if TYPE_CHECKING:
    from qtpy.QtGui import QKeyEvent

    from napari_unetseg.gui.state.session import PlacedQuality

__all__ = ["QualityPlot"]

NOTHING = (
    "How good the first mask of each plane was, once you have accepted, corrected or painted "
    "more of it: nothing yet."
)
LEGEND = "How good first masks were: ● of accepted planes, ○ of planes known in part"
STEPS = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}


class QualityPlot(QFrame):
    """A point for each plane; a click, or the arrow keys, go there. pyqtgraph is imported late."""

    chosen = Signal(object)
    """The point that somebody wants to go to, a `PlacedQuality`."""

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.legend = hint(NOTHING)
        column.addWidget(self.legend)
        self.setAccessibleName("Quality of first masks over minutes of annotation")
        self.setToolTip("Click on a point to go to its plane, or use the arrow keys.")
        self.setProperty("role", "points")
        self.chart: Any = None
        """The chart, once there was something to draw."""
        self._points: Sequence[PlacedQuality] = ()
        self._here: int | None = None
        self._theme = "dark"

    def show_theme(self, theme: str) -> None:
        """Take the colours of a napari theme."""
        self._theme = theme
        if self.chart is not None:
            self._draw()

    def show_points(self, points: Sequence[PlacedQuality]) -> None:
        """Draw these points in place of what was there."""
        self._points, self._here = points, None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus if points else Qt.FocusPolicy.NoFocus)
        if points or self.chart is not None:
            self._draw()
        self.legend.setText(self._legend() if points else NOTHING)

    def _legend(self) -> str:
        planes, minutes = len(self._points), self._points[-1].quality.minutes
        count = "1 plane" if planes == 1 else f"{planes} planes"
        return f"{LEGEND}. {count} in {minutes:.1f} min."

    def _draw(self) -> None:
        if self.chart is None:
            from napari_unetseg.gui.widgets.scatter import Scatter

            self.chart = Scatter()
            self.chart.pressed.connect(self._go)
            column = self.layout()
            assert isinstance(column, QVBoxLayout)
            column.insertWidget(0, self.chart)
        self.chart.setVisible(bool(self._points))
        self.chart.setFixedHeight(LINES_HIGH * self.legend.fontMetrics().lineSpacing())
        theme = get_theme(self._theme)
        back, text = theme.background.as_hex(), theme.text.as_hex()
        self.chart.show_colors(back, text, readable(ACTION, back, least=LINES), f"{font_size()}pt")
        self.chart.draw([p.quality for p in self._points], self._here)

    def _go(self, number: int) -> None:
        self._here = number
        self._draw()
        self.chosen.emit(self._points[number])

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Left and right go to the plane before and after."""
        step = STEPS.get(Qt.Key(event.key())) if event is not None else None
        if step is None or not self._points:
            super().keyPressEvent(event)
            return
        first = 0 if step > 0 else len(self._points) - 1
        after = first if self._here is None else self._here + step
        self._go(min(max(after, 0), len(self._points) - 1))
