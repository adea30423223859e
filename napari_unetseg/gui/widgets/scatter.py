"""Points that can be clicked on, drawn by pyqtgraph; imported only when there is any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph
from qtpy.QtCore import QPointF, Qt, Signal
from qtpy.QtGui import QFont, QFontMetricsF

if TYPE_CHECKING:
    from napari_unetseg.annotations.quality import PlaneQuality

__all__ = ["Scatter"]

SIZE, CHOSEN_SIZE = 10, 15
"""Diameters in pixels."""


class Scatter(pyqtgraph.PlotWidget):  # type: ignore[misc]
    """Dice of planes over minutes: full points for accepted planes, rings for others."""

    pressed = Signal(int)
    """The number of the point that was clicked on."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        item = self.getPlotItem()
        item.setMenuEnabled(False)
        item.hideButtons()
        self.setMouseEnabled(False, False)
        item.getAxis("left").enableAutoSIPrefix(False)
        item.getAxis("bottom").enableAutoSIPrefix(False)
        item.vb.setYRange(0, 1, padding=0.08)
        self._points = pyqtgraph.ScatterPlotItem(hoverable=True, tip=_tip)
        self._points.sigClicked.connect(self._on_clicked)
        item.addItem(self._points)
        self._text = self._mark = self._back = ""

    def show_colors(self, back: str, text: str, mark: str, font_size: str) -> None:
        """Take the colours of a theme, that of the points and the size of text."""
        self._back, self._text, self._mark = back, text, mark
        self.setBackground(back)
        font = QFont(self.font())
        font.setPointSizeF(float(font_size.removesuffix("pt")))
        item = self.getPlotItem()
        for name in ("left", "bottom"):
            axis = item.getAxis(name)
            axis.setPen(pyqtgraph.mkPen(text))
            axis.setTextPen(pyqtgraph.mkPen(text))
            axis.setStyle(tickFont=font, tickTextOffset=3)
        item.getAxis("bottom").setHeight(round(2.2 * QFontMetricsF(font).lineSpacing()))
        style = {"font-size": font_size, "color": text}
        item.setLabel("left", "Dice", **style)
        item.setLabel("bottom", "minutes of annotation", **style)

    def draw(self, qualities: Sequence[PlaneQuality], here: int | None) -> None:
        """Draw these points; ``here`` is the number of the one that was gone to last."""
        self._points.setData(
            x=np.array([q.minutes for q in qualities], float),
            y=np.array([q.dice for q in qualities], float),
            data=list(range(len(qualities))),
            size=[CHOSEN_SIZE if n == here else SIZE for n in range(len(qualities))],
            pen=pyqtgraph.mkPen(self._mark, width=2),
            brush=[pyqtgraph.mkBrush(self._mark if q.complete else self._back) for q in qualities],
        )
        last = max((q.minutes for q in qualities), default=0.0)
        self.getPlotItem().vb.setXRange(0, last or 1.0, padding=0.05)

    def at(self, number: int) -> QPointF:
        """Where a point is on the widget, in pixels."""
        point = self._points.points()[number].pos()
        scene = self.getPlotItem().vb.mapViewToScene(point)
        return QPointF(self.mapFromScene(scene))

    def _on_clicked(self, _: Any, points: Sequence[Any], *__: Any) -> None:
        if len(points):
            self.pressed.emit(int(points[0].data()))


def _tip(x: float, y: float, data: int) -> str:
    del data
    return f"Dice {y:.2f} after {x:.1f} minutes"
