"""Review of a mask: accept, withdraw, drop corrections; one undo step each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.packed_labels import PackedLabels
from napari_unetseg.gui.services.undo_stack import UndoStep
from napari_unetseg.gui.state.refusal import refusing

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.layers import PredictionLayer, RegionMask
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.undo_stack import UndoStack
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

NO_MASK = "There is no mask here yet; press 'Predict this plane', or Train, first."
NO_SHAPES = (
    "Draw a rectangle or polygon in a Shapes layer over the image and select that layer first."
)
NONE_THERE = "Nothing is accepted there."
NOTHING_CORRECTED = "Nothing is corrected there."


class Review:
    """Accepts masks, and withdraws acceptance and corrections."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        masks: MaskLayers,
        undo: UndoStack,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._masks = viewer, session, masks
        self._undo, self._events = undo, events

    # -- accept --------------------------------------------------------------------------------

    def accept_plane(self) -> None:
        """Accept the mask of the visible plane as ground truth."""
        with refusing(self._session):
            self._accept([self._plane()], "the plane")

    def accept_shapes(self) -> None:
        """Accept the mask inside the shapes of the selected Shapes layer."""
        with refusing(self._session):
            self._accept(self._in_shapes(), "what the shapes enclose")

    def accept_object(self) -> None:
        """Accept the object under the mouse."""
        with refusing(self._session):
            self._accept([self._object()], "the object")

    def _accept(self, region_masks: Sequence[RegionMask], what: str) -> None:
        prediction = self._mask()
        for place in region_masks:
            if not prediction.masks.covers(place.region):
                raise UserError(NO_MASK)
        self._do(
            prediction, LabelSource.ACCEPTED, region_masks, f"accepting {what}", prediction.accept
        )
        self._session.say(
            f"Accepted {what}: it is used for training as it is, and no prediction changes it."
        )

    # -- take back -----------------------------------------------------------------------------

    def withdraw_plane(self) -> None:
        """Withdraw acceptance on the visible plane."""
        with refusing(self._session):
            self._withdraw([self._plane()], "the plane")

    def withdraw_shapes(self) -> None:
        """Withdraw acceptance inside the selected shapes."""
        with refusing(self._session):
            self._withdraw(self._in_shapes(), "what the shapes enclose")

    def _withdraw(self, region_masks: Sequence[RegionMask], what: str) -> None:
        prediction = self._mask()
        text = f"taking back {what}"
        if not self._do(prediction, LabelSource.ACCEPTED, region_masks, text, prediction.withdraw):
            raise UserError(NONE_THERE)
        self._session.say(f"No longer accepted: {what}.")

    # -- corrections ---------------------------------------------------------------------------

    def drop_corrections_plane(self) -> None:
        """Drop the corrections of the visible plane: the network's mask is shown again."""
        with refusing(self._session):
            self._drop_corrections([self._plane()], "on this plane")

    def drop_corrections_shapes(self) -> None:
        """Drop the corrections inside the selected shapes."""
        with refusing(self._session):
            self._drop_corrections(self._in_shapes(), "inside the shapes")

    def drop_corrections_all(self) -> None:
        """Drop all corrections of the chosen image."""
        with refusing(self._session):
            prediction = self._mask()
            planes = sorted(prediction.annotated.grid(LabelSource.CORRECTIONS).planes())
            self._drop_corrections(
                [napari_layers.plane_at(p, prediction.annotated.shape) for p in planes], ""
            )

    def _drop_corrections(self, region_masks: Sequence[RegionMask], what: str) -> None:
        prediction = self._mask()
        text = f"removing the corrections {what}".strip()
        if not self._do(
            prediction, LabelSource.CORRECTIONS, region_masks, text, prediction.drop_corrections
        ):
            raise UserError(NOTHING_CORRECTED)
        self._session.say(
            f"The corrections {what} were removed: the network's own mask is shown there.".replace(
                "  ", " "
            )
        )

    # -- parts ---------------------------------------------------------------------------------

    def _mask(self) -> PredictionLayer:
        prediction = self._masks.current
        if prediction is None or not prediction.alive:
            raise UserError(NO_MASK)
        return prediction

    def _plane(self) -> RegionMask:
        return napari_layers.visible_plane(self._viewer, self._session.image)

    def _in_shapes(self) -> list[RegionMask]:
        shapes = self._viewer.layers.selection.active
        if not isinstance(shapes, Shapes):
            raise UserError(NO_SHAPES)
        return napari_layers.regions_in_shapes(self._viewer, self._session.image, shapes)

    def _object(self) -> RegionMask:
        mask = self._mask().layer
        assert mask is not None
        return napari_layers.object_at(self._viewer, mask)

    def _do(
        self,
        prediction: PredictionLayer,
        origin: LabelSource,
        region_masks: Sequence[RegionMask],
        text: str,
        say: Callable[[Region, np.ndarray], object],
    ) -> bool:
        """Apply a change to region masks and add an undo step; True if anything changed."""
        annotated, changes = prediction.annotated, []
        for place in region_masks:
            region = place.region
            prediction.record(region)
            before = annotated.read(origin, region), annotated.times(origin, region)
            say(region, place.where)
            after = annotated.read(origin, region), annotated.times(origin, region)
            if any(not np.array_equal(b, a) for b, a in zip(before, after, strict=True)):
                changes.append((region, PackedLabels(*before), PackedLabels(*after)))
        if not changes:
            return False

        def undo() -> None:
            for region, before, after in reversed(changes):
                prediction.put_back(origin, region, after.unpack(), before.unpack())

        def redo() -> None:
            for region, before, after in changes:
                prediction.put_back(origin, region, before.unpack(), after.unpack())

        self._undo.add(UndoStep(prediction.image, text, undo, redo))
        self._events.labels_touched.emit()
        return True
