"""Review section: accept, withdraw, drop corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QPushButton

from napari_unetseg.gui.widgets.section import Panel, hint, menu_button, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.corrections_outline import CorrectionsOutline
    from napari_unetseg.gui.features.review import Review
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.session import Session

WHAT_TO_DO = (
    "Paint on the mask where it is wrong, erase what should be background. Accept what is "
    "right: it is used for training, and no prediction changes it."
)
NO_MASK_YET = "Once there is a mask, correct it here and accept what is right."


class ReviewPanel(Panel):
    """Buttons for the mask of the chosen image."""

    def __init__(
        self,
        session: Session,
        review: Review,
        undo: UndoStack,
        outline: CorrectionsOutline,
        masks: MaskLayers,
    ) -> None:
        super().__init__("4  Correct", session)
        self._outline, self._masks = outline, masks
        review = review
        self.explanation = hint()
        self.column.addWidget(self.explanation)
        self.accept = QPushButton("Accept plane")
        self.accept.setToolTip("Accept the whole mask of the plane on screen.")
        self.accept.clicked.connect(review.accept_plane)
        self.more = menu_button(
            "More",
            "Accept or take back a part, or remove corrections.",
            {
                "Accept inside the selected shapes": review.accept_shapes,
                "Take back on this plane": review.withdraw_plane,
                "Take back inside the selected shapes": review.withdraw_shapes,
                "-": None,
                "Remove corrections on this plane": review.drop_corrections_plane,
                "Remove corrections inside the selected shapes": review.drop_corrections_shapes,
                "Remove all corrections of this image": review.drop_corrections_all,
            },
        )
        self.column.addLayout(row(self.accept, self.more, stretch=0))
        self.undo, self.redo = QPushButton("Undo"), QPushButton("Redo")
        self.undo.clicked.connect(undo.undo)
        self.redo.clicked.connect(undo.redo)
        self.own = QCheckBox("Show what is mine")
        self.own.setToolTip("Outline what you corrected and accepted.")
        self.own.toggled.connect(outline.show)
        self.column.addLayout(row(self.own, None))
        steps = row(self.undo, self.redo)
        for place in (0, 1):
            steps.setStretch(place, 1)
        self.column.addLayout(steps)
        self.corrected = hint()
        self.column.addWidget(self.corrected)
        self.follow("entry", "image", "mode", call=self._on_state)
        self.follow_running(self._on_state)
        self.follow("undoable", "redoable", call=self._on_steps)
        self.follow("corrected", "accepted", call=self._on_counts)
        self._on_state()
        self._on_steps()
        self._on_counts()

    def refresh(self) -> None:
        """Update the buttons from the state of the mask."""
        self._on_state()

    def _on_state(self) -> None:
        prediction = self._masks.current
        there = prediction is not None and prediction.alive
        self.explanation.setText(WHAT_TO_DO if there else NO_MASK_YET)
        for widget in (self.accept, self.more, self.own):
            widget.setEnabled(there)
        with QSignalBlocker(self.own):  # the user may have deleted the outlines
            self.own.setChecked(self._outline.shown)

    def _on_steps(self) -> None:
        for button, verb, text in (
            (self.undo, "Undo", self.session.undoable),
            (self.redo, "Redo", self.session.redoable),
        ):
            button.setEnabled(bool(text))
            what = text or "no action of the plugin"
            button.setToolTip(f"{verb} {what}. Strokes: Ctrl+Z.")

    def _on_counts(self) -> None:
        parts = [
            f"{count:,} {what}"
            for count, what in (
                (self.session.corrected, "corrected"),
                (self.session.accepted, "accepted"),
            )
            if count
        ]
        self.corrected.setVisible(bool(parts))
        self.corrected.setText(f"Corrected and accepted pixels: {', '.join(parts)}.")
