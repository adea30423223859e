"""Two plots of which one is seen: the training's curve, and quality over time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_unetseg.gui.widgets.curve_plot import CurvePlot
from napari_unetseg.gui.widgets.quality_plot import QualityPlot

if TYPE_CHECKING:
    from napari_unetseg.gui.quality import Quality
    from napari_unetseg.gui.state.session import Session

__all__ = ["Plots"]

TIPS = {
    "Training": "Losses and Dice of the training.",
    "Quality over time": "How good the first mask of each plane was, over minutes of annotation.",
}


class Plots(QWidget):
    """A switch and two plots; hidden until there is a curve or a model."""

    def __init__(self, session: Session, quality: Quality) -> None:
        super().__init__()
        self._quality = quality
        self._session = session
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.curve, self.quality = CurvePlot(), QualityPlot()
        self.quality.chosen.connect(quality.show)
        self._pages = (QWidget(), self.quality)  # the curve hides itself in its page
        inside = QVBoxLayout(self._pages[0])
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addWidget(self.curve)
        switch, group = QHBoxLayout(), QButtonGroup(self)
        switch.setSpacing(0)
        self.buttons: list[QPushButton] = []
        for number, (name, tip) in enumerate(TIPS.items()):
            button = QPushButton(name)
            button.setCheckable(True)
            button.setProperty("role", "segment")
            button.setToolTip(tip)
            button.clicked.connect(partial(self._turn_to, number))
            group.addButton(button)
            switch.addWidget(button, 1)
            self.buttons.append(button)
        column.addLayout(switch)
        for page in self._pages:
            column.addWidget(page)
        self._turn_to(0)
        self.show_state()

    def show_theme(self, theme: str) -> None:
        """Take the colours of a napari theme."""
        self.curve.show_theme(theme)
        self.quality.show_theme(theme)

    def show_state(self) -> None:
        """Show the curve so far; be there once there is one, or a model."""
        session = self._session
        self.curve.show_curve(session.curve, session.marks, session.structures)
        self.setVisible(bool(session.curve) or session.entry is not None)

    def show_quality(self) -> None:
        """Show how good first masks were."""
        self.quality.show_points(self._session.quality)

    def end(self) -> None:
        """Compute nothing any more."""
        self._quality.want(False)

    def _turn_to(self, number: int, _: bool = False) -> None:
        self.buttons[number].setChecked(True)
        for each, page in enumerate(self._pages):
            page.setVisible(each == number)
        self._quality.want(number == 1)
