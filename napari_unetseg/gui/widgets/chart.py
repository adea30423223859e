"""Chart with two axes (pyqtgraph), imported when there are data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph
from qtpy.QtCore import Qt
from qtpy.QtGui import QFont, QFontMetricsF

from napari_unetseg.gui.state.messages import duration

if TYPE_CHECKING:
    from napari_unetseg.gui.state.training_curve import Line


class _Bottom(pyqtgraph.AxisItem):  # type: ignore[misc]
    """An axis of steps, or of times such as ``1:30``."""

    over_time = False

    def tickStrings(self, values: list[float], *_: float) -> list[str]:
        if not self.over_time:
            return [f"{round(v):,}" if v == round(v) else "" for v in values]
        return [duration(v) if v == round(v) else "" for v in values]


class Chart(pyqtgraph.PlotWidget):  # type: ignore[misc]
    """Losses on the left axis, scores from 0 to 1 on the right one; nothing can be dragged."""

    def __init__(self) -> None:
        self._bottom = _Bottom("bottom")
        super().__init__(axisItems={"bottom": self._bottom})
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        item = self.getPlotItem()
        item.setMenuEnabled(False)
        item.hideButtons()
        self.setMouseEnabled(False, False)
        item.getAxis("left").enableAutoSIPrefix(False)
        item.showAxis("right")
        self._right = pyqtgraph.ViewBox(enableMouse=False, enableMenu=False)
        self._right.setYRange(0, 1, padding=0.05)
        item.scene().addItem(self._right)
        item.getAxis("right").linkToView(self._right)
        self._right.setXLink(item)
        item.vb.sigResized.connect(self._on_resized)
        self._curves: dict[tuple[bool, int], Any] = {}
        self._strokes = pyqtgraph.PlotDataItem(connect="pairs")
        self._right.addItem(self._strokes)
        self._shown = pyqtgraph.ScatterPlotItem(size=7)
        self._shown.setZValue(10)
        self._right.addItem(self._shown)
        self._text = self._colors = ""
        self._on_resized()

    def _on_resized(self) -> None:
        self._right.setGeometry(self.getPlotItem().vb.sceneBoundingRect())

    def show_colors(self, back: str, text: str, font_size: str) -> None:
        """Set the colours and font size of a theme."""
        if self._colors == (look := back + text + font_size):
            return
        self._colors, self._text = look, text
        self.setBackground(back)
        font = QFont(self.font())
        font.setPointSizeF(float(font_size.removesuffix("pt")))
        item = self.getPlotItem()
        for name in ("left", "right", "bottom"):
            axis = item.getAxis(name)
            axis.setPen(pyqtgraph.mkPen(text))
            axis.setTextPen(pyqtgraph.mkPen(text))
            axis.setStyle(tickFont=font, tickTextOffset=3)
        item.getAxis("bottom").setHeight(round(2.2 * QFontMetricsF(font).lineSpacing()))
        item.setLabel("left", "loss", **{"font-size": font_size, "color": text})
        item.setLabel("right", "score", **{"font-size": font_size, "color": text})
        dotted = pyqtgraph.mkPen(color=text, width=1.5, style=Qt.PenStyle.DotLine)
        self._strokes.setPen(dotted)
        self._shown.setBrush(text)
        self._shown.setPen(pyqtgraph.mkPen(back))

    def draw(self, lines: Sequence[Line], *, over_time: bool) -> None:
        """Draw the given curves instead of the current ones."""
        self._bottom.over_time = over_time
        self.getPlotItem().setLabel(
            "bottom", "time" if over_time else "step", **{"color": self._text}
        )
        for curve in self._curves.values():
            curve.setVisible(False)
        places = {False: 0, True: 0}
        for line in lines:
            curve = self._curve(line.score, places[line.score])
            places[line.score] += 1
            few = len(line.x) < 50
            curve.setSymbol("o" if few else None)
            curve.setSymbolSize(4)
            curve.setSymbolBrush(line.color)
            curve.setSymbolPen(None)
            style = Qt.PenStyle.DashLine if line.dashed else Qt.PenStyle.SolidLine
            width = 3 if line.bold else 2
            curve.setPen(pyqtgraph.mkPen(color=line.color, width=width, style=style))
            curve.setData(line.x, line.y)
            curve.setVisible(True)
        losses = [line.y.max() for line in lines if not line.score]
        self.getPlotItem().vb.setYRange(0, max(losses, default=0.0) or 1.0, padding=0.05)
        ends = [line.x[-1] for line in lines]
        self.getPlotItem().vb.setXRange(0, max(ends, default=1.0) or 1.0, padding=0.02)
        self.getPlotItem().showAxis("right", any(line.score for line in lines))

    def _curve(self, score: bool, place: int) -> Any:
        if (score, place) not in self._curves:
            curve = pyqtgraph.PlotDataItem(autoDownsample=True, autoDownsampleFactor=0.5)
            self._curves[score, place] = curve
            # not `PlotItem.addItem`, which would switch the down-sampling off
            (self._right if score else self.getPlotItem().vb).addItem(curve)
        return self._curves[score, place]

    def mark(self, strokes: Sequence[float], shown: Sequence[tuple[float, float]]) -> None:
        """Mark where strokes came, as x, and where another model was shown, as x and its score."""
        x = np.repeat(np.asarray(strokes, float), 2)
        self._strokes.setData(x, np.tile([-0.05, 1.05], len(strokes)), connect="pairs")
        self._shown.setData([x for x, _ in shown], [y for _, y in shown])
