"""Post-processing of a prediction into a layer of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.jobs.window_tasks import TidyWork

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.data.mask_cleanup import TidySettings
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.session import Session


class Postprocess:
    """Fills holes, drops small objects, splits and numbers objects."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        models: SessionModels,
        masks: MaskLayers,
    ) -> None:
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._sources, self._models, self._masks = sources, models, masks

    def run(self, settings: TidySettings) -> None:
        """Post-process the prediction of the chosen image into a new layer."""
        with refusing(self._session):
            self._jobs.check_free()
            prediction = self._masks.current
            if prediction is None or not prediction.alive or prediction.layer is None:
                raise UserError("There is no prediction to tidy up; press 'Predict' first.")
            dims, stack = self._models.model.dims, self._sources.stack()
            mask = napari_layers.mask_of(prediction.image, prediction.layer)
            work = TidyWork(mask, settings, stack.spatial_spacing(dims))
            done = partial(self._on_done, prediction.layer)
            self._jobs.start(JobKind.TIDY, "Tidying up", work, done)

    def _on_done(self, source: Any, data: Any) -> None:
        if data is None:
            self._session.say("Tidying up was stopped; no layer was made.")
        elif source not in self._viewer.layers:
            text = "The prediction was deleted meanwhile; predict again."
            self._session.say(text, Level.WARNING)
        else:
            layer = napari_layers.add_tidied(self._viewer, source, data, self._session.structures)
            what = f": {int(data.max())} objects" if data.dtype != "uint8" else ""
            self._session.say(f"{layer.name} is a new layer{what}.", Level.DONE)
