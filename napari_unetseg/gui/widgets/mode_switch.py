"""Mode switch of prediction: live, once, frozen."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QWidget

from napari_unetseg.gui.state.session import Mode

if TYPE_CHECKING:
    from napari_unetseg.gui.state.session import Session

TIPS = {
    Mode.LIVE: "The mask is updated during training, as you paint, and wherever you navigate.",
    Mode.ONCE: "The mask on screen is updated once, when training ends.",
    Mode.FROZEN: "The mask on screen is not updated.",
}


class ModeSwitch(QWidget):
    """Three exclusive buttons."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        group = QButtonGroup(self)
        self.buttons: dict[Mode, QPushButton] = {}
        for mode, tip in TIPS.items():
            button = self.buttons[mode] = QPushButton(mode.capitalize())
            button.setCheckable(True)
            button.setProperty("role", "segment")
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_clicked, mode))
            group.addButton(button)
            layout.addWidget(button, 1)
        self.show_mode()

    def show_mode(self) -> None:
        """Update the buttons from the session's mode."""
        self.buttons[self._session.mode].setChecked(True)

    def _on_clicked(self, mode: Mode, _: bool = False) -> None:
        self._session.mode = mode
