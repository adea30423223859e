"""Quality section: random places to check, and what they say of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton, QWidget

from napari_unetseg.gui.widgets.section import Panel, folded, hint, row
from napari_unetseg.inference.quality_table import quality_lines

if TYPE_CHECKING:
    from napari_unetseg.gui.features.quality_check import QualityCheck
    from napari_unetseg.gui.state.session import Session

WHAT_IT_IS = (
    "How good is the mask? Correct it at 10 random places; from these Dice is estimated for all "
    "open images. This is the figure for a paper."
)
WHAT_TO_DO = (
    "Place {} of {}: paint and erase inside the yellow frame until the mask is right, then press "
    "Right."
)
LEFT = "{} places of a check are left."
NOT_MEASURED = "The model in use is not measured at the checked places."


class QualityPanel(Panel):
    """Buttons of a check, and its result."""

    def __init__(self, session: Session, check: QualityCheck) -> None:
        super().__init__("6  Check quality", session)
        self.explanation = hint(WHAT_IT_IS)
        self.column.addWidget(self.explanation)
        self.begin = QPushButton("Check quality")
        self.begin.setToolTip("Go to random places in all open images, one after another.")
        self.begin.clicked.connect(lambda: check.begin())
        self.right = QPushButton("Right")
        self.right.setProperty("role", "primary")
        self.right.setToolTip(
            "The mask inside the frame is right now, or was from the beginning; go to the next "
            "place."
        )
        self.right.clicked.connect(check.right)
        self.skip = QPushButton("Skip")
        self.skip.setToolTip(
            "Nobody can say what is right here: the place does not count. Skip few, or the "
            "result is too good."
        )
        self.skip.clicked.connect(check.skip)
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("End the check; the places that were checked count.")
        self.stop.clicked.connect(check.stop)
        self.column.addLayout(row(self.begin, self.right, self.skip, self.stop))
        self.result = hint()
        self.result.setProperty("role", "result")
        self.column.addWidget(self.result)
        self._earlier = hint()
        self.earlier: QWidget = folded("Other models at the same places", self._earlier)
        self.column.addWidget(self.earlier)
        self.use = QPushButton("Use them for training")
        self.use.setToolTip(
            "Checked places are kept out of training until you press this. Then later models "
            "need a new check; the figures of the models so far stay."
        )
        self.use.clicked.connect(check.use_for_training)
        self.column.addWidget(self.use)
        self.follow("image", "entry", "improved", "checking", "unchecked", call=self._on_state)
        self.follow("checked", "measuring", call=self._on_state)
        self.follow("quality", "entry", "structures", call=self._on_quality)
        self._on_state()
        self._on_quality()

    def _on_state(self) -> None:
        session = self.session
        here = session.checking
        if here is not None:
            text = WHAT_TO_DO.format(*here)
        elif session.unchecked:
            text = f"{LEFT.format(session.unchecked)} {WHAT_IT_IS}"
        else:
            text = WHAT_IT_IS
        self.explanation.setText(text)
        self.begin.setVisible(here is None)
        again = "Check more places" if session.checked else "Check quality"
        self.begin.setText("Continue the check" if session.unchecked else again)
        ready = session.image is not None and session.newest_model is not None
        self.begin.setEnabled(ready)
        for button in (self.right, self.skip):
            button.setVisible(here is not None)
        self.stop.setVisible(bool(session.unchecked))
        self.use.setVisible(here is None and bool(session.checked))
        self.use.setEnabled(not session.measuring)

    def _on_quality(self) -> None:
        session = self.session
        names = {s.number: s.name for s in session.structures}
        used = session.entry.model.id if session.entry is not None else ""
        by_model = {one.model: quality_lines(one, names) for one in session.quality}
        mine = by_model.pop(used, [NOT_MEASURED])
        self.result.setVisible(bool(session.quality))
        self.result.setText("\n".join(mine))
        titles = {one.model: one.name for one in session.quality}
        others = [f"{titles[model]}\n  " + "\n  ".join(lines) for model, lines in by_model.items()]
        self.earlier.setVisible(bool(others))
        self._earlier.setText("\n".join(others))
