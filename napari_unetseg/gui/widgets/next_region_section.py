"""Active learning section: next region, other regions, uncertainty layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QCheckBox, QPushButton

from napari_unetseg.gui.widgets.section import Panel, menu_button, row

if TYPE_CHECKING:
    from napari_unetseg.gui.features.next_region import NextRegion
    from napari_unetseg.gui.features.uncertainty_display import UncertaintyDisplay
    from napari_unetseg.gui.state.session import Session


class NextRegionPanel(Panel):
    """Buttons that move the viewer to the next region; also active during a training."""

    def __init__(
        self, session: Session, next_region: NextRegion, uncertainty: UncertaintyDisplay
    ) -> None:
        super().__init__("", session)
        self.next = QPushButton("Next place")
        self.next.setToolTip(
            "Go to where the network is uncertain, about rare structures as often as about common "
            "ones, on any plane and in any open image."
        )
        self.next.clicked.connect(next_region.next_region)
        self.more = menu_button(
            "More",
            "Go to another kind of place.",
            {
                "Where the last two models differ": next_region.next_disagreement,
                "Next plane with nothing labelled or accepted": next_region.next_plane,
            },
        )
        self.uncertainty = QCheckBox("Show uncertainty")
        self.uncertainty.setToolTip(
            "Show the uncertainty of the network as a layer; bright is uncertain."
        )
        self.uncertainty.toggled.connect(uncertainty.show)
        self.column.addLayout(row(self.next, self.more, stretch=0))
        self.column.addLayout(row(self.uncertainty, None))
        self.follow("entry", "image", "improved", call=self._on_state)
        self.follow("uncertain", call=self._on_uncertain)
        self._on_state()
        self._on_uncertain()

    def refresh(self) -> None:
        """Update the buttons from the state of images and models."""
        self._on_state()

    def _on_state(self) -> None:
        image = self.session.image is not None
        ready = image and self.session.newest_model is not None
        self.next.setEnabled(ready)
        self.uncertainty.setEnabled(ready or self.session.uncertain)
        self.more.setEnabled(image)

    def _on_uncertain(self) -> None:
        if self.uncertainty.isChecked() != self.session.uncertain:
            self.uncertainty.blockSignals(True)
            self.uncertainty.setChecked(self.session.uncertain)
            self.uncertainty.blockSignals(False)
