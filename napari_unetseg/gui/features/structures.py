"""Structures and brushes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_unetseg.core.labels import BACKGROUND_LABEL, Structure
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session


class Structures:
    """Adds and renames structures, and selects their brushes."""

    def __init__(
        self, viewer: ViewerModel, session: Session, sources: ImageSources, masks: MaskLayers
    ) -> None:
        self._viewer, self._session = viewer, session
        self._sources, self._masks = sources, masks

    def choose_brush(self, number: int) -> None:
        """Select a structure's brush on the active labels or prediction layer."""
        self._session.brush = number
        source, prediction = self._session.source(), self._masks.current
        active = self._viewer.layers.selection.active
        if prediction is not None and prediction.alive and active is prediction.layer:
            napari_layers.activate_brush(
                self._viewer, active, 0 if number == BACKGROUND_LABEL else number
            )
        elif source is not None and source.labels is not None:
            self._sources.adopt_colors()
            napari_layers.activate_brush(self._viewer, source.labels, number)
        else:
            self._session.say(messages.NO_LABELS, Level.WARNING)

    def select_brush(self, number: int) -> None:
        """Select the brush of a structure, if the structure exists."""
        if number in {s.number for s in self._session.structures}:
            self.choose_brush(number)
        else:
            text = f"There is no structure {number}; press '+ Structure' to add one."
            self._session.say(text, Level.WARNING)

    def add(self) -> None:
        """Add a structure with the next free number."""
        numbers = {s.number for s in self._session.structures}
        free = next((n for n in range(1, BACKGROUND_LABEL) if n not in numbers), None)
        if free is None:
            text = "There are 254 structures already, the largest possible number."
            self._session.say(text, Level.WARNING)
            return
        self._session.structures = (*self._session.structures, Structure(free))
        source = self._session.source()
        if source is not None and source.labels is not None:
            self.choose_brush(free)

    def rename(self, number: int, name: str) -> None:
        """Rename a structure."""
        self._session.structures = tuple(
            replace(s, name=name.strip()) if s.number == number else s
            for s in self._session.structures
        )
