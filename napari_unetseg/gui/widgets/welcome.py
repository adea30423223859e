"""Welcome hint at the top of the dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFrame, QPushButton, QVBoxLayout

from napari_unetseg.gui.state.user_state import user_flags
from napari_unetseg.gui.widgets.section import Panel, hint, row

if TYPE_CHECKING:
    from napari_unetseg.gui.state.session import Session

SEEN = "welcome_seen"
TEXT = (
    "<b>New here?</b> Open an image, press <b>New layer</b>, draw a few strokes on a structure, "
    "then some with the <b>background</b> brush, and press <b>Train</b>. <b>?</b> below says more."
)


class WelcomePanel(Panel):
    """Shown until it is dismissed or the first training is done, and never again."""

    def __init__(self, session: Session) -> None:
        super().__init__("", session)
        self.dismiss = QPushButton("&Got it")
        self.dismiss.setToolTip("Do not show this again.")
        self.dismiss.clicked.connect(self._on_dismissed)
        frame = QFrame()
        frame.setProperty("role", "welcome")
        inside = QVBoxLayout(frame)
        inside.setContentsMargins(8, 6, 8, 6)
        self.text = hint(TEXT)
        inside.addWidget(self.text)
        inside.addLayout(row(None, self.dismiss))
        self.column.addWidget(frame)
        self.setVisible(not user_flags.flag(SEEN))
        self.follow("result", call=self._on_result)

    def _on_result(self) -> None:
        """Hide the hint once a training has a result."""
        if self.session.result and not self.isHidden():
            self._on_dismissed()

    def _on_dismissed(self) -> None:
        self.hide()
        user_flags.put(SEEN, True)
