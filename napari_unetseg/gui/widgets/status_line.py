"""Status line at the bottom of the dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFrame, QSizePolicy

from napari_unetseg.gui.widgets.section import Panel, hint, restyle, row

if TYPE_CHECKING:
    from napari_unetseg.gui.state.session import Session

WELCOME = "Choose an image, press 'New layer', paint some strokes, press 'Train'."
READY = "Two classes are labelled: press 'Train'."


class StatusPanel(Panel):
    """Shows the session's message."""

    def __init__(self, session: Session) -> None:
        super().__init__("", session)
        self.text = hint(WELCOME)
        # a long name without spaces must not widen the dock
        self.text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self._frame = QFrame()
        self._frame.setProperty("role", "status")
        layout = row(self.text, stretch=0)
        layout.setContentsMargins(8, 5, 8, 5)
        self._frame.setLayout(layout)
        self.column.addWidget(self._frame)
        self.follow("message", "counts", call=self._on_message)
        self._on_message()

    def _on_message(self) -> None:
        message = self.session.message
        enough = sum(count > 0 for count in self.session.counts.values()) > 1
        self.text.setText(message.text or (READY if enough else WELCOME))
        self.text.setToolTip(message.text)
        restyle(self._frame, level=str(message.level))
