"""The live plot: training loss on the left axis, validation Dice on the right one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari.utils.theme import get_theme
from qtpy.QtWidgets import QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari_unetseg.gui.session import Point

__all__ = ["CurvePlot"]

LOSS, DICE = "#E69F00", "#56B4E9"
HEIGHT = 140


class CurvePlot(QWidget):
    """Hidden until there is a curve; pyqtgraph is imported then."""

    def __init__(self) -> None:
        super().__init__()
        QVBoxLayout(self).setContentsMargins(0, 0, 0, 0)
        self.setFixedHeight(HEIGHT)
        self.setToolTip("Training loss, and Dice on the labels held back, after each epoch.")
        self._theme = "dark"
        self._plot: Any = None
        self.hide()

    def show_theme(self, theme: str) -> None:
        """Take the colours of a napari theme."""
        self._theme = theme
        if self._plot is not None:
            self._paint()

    def show_points(self, points: Sequence[Point]) -> None:
        """Draw the curve so far."""
        self.setVisible(bool(points))
        if not points:
            return
        if self._plot is None:
            self._build()
        steps = [p.step for p in points]
        losses = [p.loss for p in points]
        self._loss.setData(steps, losses)
        finite = [loss for loss in losses if math.isfinite(loss)]
        self._plot.setYRange(0, max(finite, default=0.0) or 1.0, padding=0.05)
        scored = [(p.step, p.dice) for p in points if p.dice is not None]
        self._dice.setData([s for s, _ in scored], [d for _, d in scored])
        self._right.setVisible(bool(scored))

    def _build(self) -> None:
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        layout = self.layout()
        if layout is not None:
            layout.addWidget(self._plot)
        item = self._plot.getPlotItem()
        item.setMenuEnabled(False)
        item.hideButtons()
        self._plot.setMouseEnabled(False, False)
        item.setLabel("bottom", "step")
        item.setLabel("left", "loss")
        item.setLabel("right", "Dice")
        item.getAxis("left").enableAutoSIPrefix(False)
        self._right = item.getAxis("right")
        self._loss = item.plot(symbol="o", symbolSize=4)
        self._dice = pyqtgraph.PlotDataItem(symbol="s", symbolSize=4)
        self._dice_view = pyqtgraph.ViewBox(enableMouse=False, enableMenu=False)
        self._dice_view.setYRange(0, 1, padding=0.05)
        self._dice_view.addItem(self._dice)
        item.scene().addItem(self._dice_view)
        self._right.linkToView(self._dice_view)
        self._dice_view.setXLink(item)
        item.vb.sigResized.connect(self._on_resized)
        self._paint()
        self._on_resized()

    def _on_resized(self) -> None:
        self._dice_view.setGeometry(self._plot.getPlotItem().vb.sceneBoundingRect())

    def _paint(self) -> None:
        import pyqtgraph

        theme = get_theme(self._theme)
        self._plot.setBackground(theme.background.as_hex())
        item = self._plot.getPlotItem()
        for name, color in (("left", LOSS), ("right", DICE), ("bottom", theme.text.as_hex())):
            axis = item.getAxis(name)
            axis.setPen(pyqtgraph.mkPen(color))
            axis.setTextPen(pyqtgraph.mkPen(color))
        dashed = pyqtgraph.QtCore.Qt.PenStyle.DashLine
        for curve, color, style in ((self._loss, LOSS, None), (self._dice, DICE, dashed)):
            pen = {"color": color, "width": 2} | ({"style": style} if style else {})
            curve.setPen(pyqtgraph.mkPen(**pen))
            curve.setSymbolBrush(color)
            curve.setSymbolPen(color)
