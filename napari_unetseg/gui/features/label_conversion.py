"""Conversion of unusable labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.data.image_grids import empty_grid
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.label_problems import Conversion, conversions_of
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.session import Session


class LabelConversion:
    """Converts unusable labels of the chosen image to usable ones."""

    def __init__(
        self, viewer: ViewerModel, session: Session, sources: ImageSources, runner: Runner
    ) -> None:
        self._viewer, self._session = viewer, session
        self._sources, self._runner = sources, runner

    def offered(self) -> tuple[Conversion, ...]:
        """Conversions that apply to the chosen labels."""
        source = self._session.source()
        if source is None or source.labels not in self._sources.seen:
            return ()
        counts, appearance = self._sources.seen[source.labels]
        return conversions_of(counts, appearance, source.kind)

    def use(self, conversion: Conversion) -> None:
        """Convert the chosen labels to a new layer in the background, and choose it."""
        image, source = self._session.image, self._session.source()
        if source is None or source.labels is None:
            return
        data = napari_layers.data_of(source.labels)

        def made() -> np.ndarray:
            out = empty_grid(tuple(data.shape))
            for index in np.ndindex(*data.shape[:-2]):
                out[index] = conversion.make(np.asarray(data[index]))
            return out

        show = partial(self._show, image, source.labels, conversion)
        self._runner.query(made, show, self._on_error, about="labels")

    def _show(self, image: Any, labels: Labels, conversion: Conversion, made: np.ndarray) -> None:
        source = self._session.source()
        if source is None or source.image is not image or source.labels is not labels:
            return  # other labels were chosen meanwhile, perhaps by an earlier click
        layer = napari_layers.add_labels(self._viewer, labels, made, conversion.kind)
        self._sources.choose_labels(layer, conversion.kind)
        self._session.say(f"{layer.name} was made and selected; press 'Train'.", Level.DONE)

    def _on_error(self, error: BaseException) -> None:
        self._session.say(messages.explain(error, "Making labels"), Level.WARNING)
