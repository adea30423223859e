"""Notice of a misaligned layer, with a button to align it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFrame, QPushButton, QVBoxLayout

from napari_unetseg.gui.widgets.section import Panel, hint, restyle, row

if TYPE_CHECKING:
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.state.session import Session


class AlignmentNotice(Panel):
    """The session's misaligned layer: a channel, or labels or a mask; hidden if there is none."""

    def __init__(self, session: Session, alignment: LayerAlignment, *, of_channels: bool) -> None:
        super().__init__("", session)
        self._of_channels = of_channels
        self.text = hint()
        self.align = QPushButton("Align")
        self.align.setToolTip(
            "Lay the layer over the image, pixel on pixel; its data are not changed."
        )
        self.align.clicked.connect(alignment.align)
        frame = QFrame()
        frame.setProperty("role", "status")
        inside = QVBoxLayout(frame)
        inside.setContentsMargins(8, 5, 8, 5)
        inside.addWidget(self.text)
        inside.addLayout(row(self.align, None))
        self.column.addWidget(frame)
        restyle(frame, level="warning")
        self.follow("misalignment", call=self._on_misalignment)
        self._on_misalignment()

    def _on_misalignment(self) -> None:
        found = self.session.misalignment
        mine = found is not None and found.is_channel == self._of_channels
        self.setVisible(mine)
        if found is not None and mine:
            self.text.setText(found.text)
            self.align.setVisible(found.can_align)
