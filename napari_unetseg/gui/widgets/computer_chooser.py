"""Field for the remote computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QSizePolicy

from napari_unetseg.gui.features.remote_computer import THIS
from napari_unetseg.gui.widgets.section import Panel, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.remote_computer import RemoteComputer
    from napari_unetseg.gui.state.session import Session

USUAL = "127.0.0.1:8786"


class ComputerPanel(Panel):
    """This computer, or address and key of one where ``unetseg worker`` runs."""

    def __init__(self, session: Session, computers: RemoteComputer) -> None:
        super().__init__("", session)
        self._computers = computers
        self.field = QComboBox()
        self.field.setEditable(True)
        self.field.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.field.addItems([THIS, USUAL])
        self.field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.field.setToolTip(
            "Where to train and predict: this computer, or one with a GPU where 'unetseg worker' "
            "runs. Open the SSH tunnel that it prints, then paste the line 'ADDRESS KEY' here; the "
            "key is kept, so that next time the address is enough. See docs/remote.md."
        )
        self.field.textActivated.connect(self._on_chosen)
        if (line := self.field.lineEdit()) is not None:
            line.editingFinished.connect(self._on_typed)
        self.column.addLayout(row("Computer", self.field, stretch=1))
        self.follow("computer", call=self._on_computer)
        self._on_computer()

    def _on_typed(self) -> None:
        self._on_chosen(self.field.currentText())

    def _on_chosen(self, text: str) -> None:
        self._computers.use(text)
        self._on_computer()

    def _on_computer(self) -> None:
        self.field.setEditText(self.session.computer or THIS)
