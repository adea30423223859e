"""Places in the open images: which images there are, what is labelled in them, camera moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.session import ImageSource

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.inference.query_strategy import QueryImage
    from napari_unetseg.models.model import Model


class PlacesOnScreen:
    """Sends the viewer to a place of any open image."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        sources: ImageSources,
        annotations: Annotations,
        masks: MaskLayers,
        checked: CheckedPlaces,
    ) -> None:
        self._viewer, self._session = viewer, session
        self._images, self._annotations, self._masks = sources, annotations, masks
        self._checked = checked

    def show(self, image: Image, plane: tuple[int, ...], region: tuple[slice, ...]) -> None:
        """Choose an image and move the viewer to a region of it."""
        if image is not self._session.image:
            self._images.choose_image(image)
            napari_layers.bring_to_front(
                self._viewer,
                self._layers_of(self._session.source(image)),
                [
                    layer
                    for source in self._session.sources
                    if source.image is not image
                    for layer in self._layers_of(source)
                ],
            )
            source = self._session.source(image)
            if source is not None and source.labels is not None:
                napari_layers.activate_brush(self._viewer, source.labels, self._session.brush)
        napari_layers.center_on(self._viewer, image, plane, region)

    def query_image(self, source: ImageSource) -> QueryImage:
        """An image, and where it is labelled or labels would not train, as a query takes it."""
        from napari_unetseg.inference.query_strategy import QueryImage

        stack = napari_layers.stack_of(source.image, source.channels)
        annotated = self._annotations.of(source.image)
        labels = None
        if source.labels is not None:
            labels = napari_layers.voxels_of(source.image, source.labels)
        strokes = source.kind is LabelKind.STROKES

        def labelled(plane: tuple[int, ...], region: tuple[slice, ...]) -> np.ndarray:
            shape = [s.stop - s.start for s in region]
            if labels is not None and not strokes:
                return np.ones(shape, bool)
            whole = (*(slice(i, i + 1) for i in plane), *region)
            found: np.ndarray = annotated.overrides(whole).reshape(shape) != 0
            found |= self._checked.drawn(source.image, whole, held_out=True).reshape(shape)
            if labels is not None:
                found |= np.asarray(labels[(*plane, *region)]) != 0
            return found

        return QueryImage(stack, labelled)

    def fitting(self, model: Model) -> list[ImageSource]:
        """The images that fit a model."""
        return [source for source in self.sources() if self._fits(source, model)]

    def _fits(self, source: ImageSource, model: Model) -> bool:
        try:
            model.check_image(napari_layers.stack_of(source.image, source.channels))
        except UserError:
            return False
        return True

    def sources(self) -> list[ImageSource]:
        """Images in the viewer; what is or may be a channel of another is none."""
        sources = [s for s in self._session.sources if s.used and not s.on_disk]
        channels = {id(c) for s in sources for c in s.channels}
        found = [s for s in sources if id(s.image) not in channels]
        known = {id(s.image) for s in sources} | channels
        others = [
            image
            for image in self._images.images()
            if id(image) not in known
            and not any(napari_layers.same_picture(image, s.image) for s in found)
        ]
        return [*found, *(ImageSource(image) for image in others)]

    def _layers_of(self, source: ImageSource | None) -> list[Any]:
        if source is None:
            return []
        prediction = self._masks.predictions.get(source.image)
        return [source.image, source.labels, prediction.layer if prediction else None]
