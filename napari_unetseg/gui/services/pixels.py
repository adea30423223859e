"""An image layer that is given other pixels: of another shape it holds another image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari_unetseg.gui.controller import Controller

__all__ = ["Pixels"]


class Pixels:
    """Keeps what belongs to an image true to the pixels of its layer.

    Parameters
    ----------
    controller
        Knows the session, the masks and what was said of each image.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller, self._session = controller, controller.session

    def changed(self, image: Any) -> None:
        """A layer has other pixels: its masks are old, and of another shape all else is."""
        controller = self._controller
        controller.looking.stop()
        controller.attention.forget(image)
        if controller.look_anew(image):
            controller.stop()
        with controller.refusing():
            shape, truth = napari_layers.grid_shape(image), controller.truths.get(image)
            if truth is not None and truth.shape != shape:
                self._put_away(image, shape)
            controller.keeping.on_pixels(image)
        for seen in (image, *self._channel_of(image)):
            controller.looking.forget(seen)
            if (prediction := controller.predictions.get(seen)) is not None:
                prediction.age()
        self._session.events.sources.emit(self._session.sources, self._session.sources)

    def _channel_of(self, image: Any) -> list[Any]:
        return [source.image for source in self._session.sources if image in source.channels]

    def _put_away(self, image: Any, shape: tuple[int, ...]) -> None:
        """Begin anew with an image of another shape; what a project knows of it is shown."""
        controller, session = self._controller, self._session
        controller.forget(image)
        session.sources = tuple(
            replace(source, labels=None, chosen=False) if source.image is image else source
            for source in session.sources
        )
        if session.settings.dims == 3 and not controller.has_volumes():
            session.change_settings(dims=2, depth=None)
        size = " × ".join(map(str, shape))
        session.say(messages.OTHER_IMAGE.format(image.name, size), Level.WARNING)
        controller.keeping.recognise()
