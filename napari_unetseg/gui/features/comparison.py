"""Comparison with the model before the last training, and return to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.session import Session


class Comparison:
    """Shows what the last training changed, and reverts it."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: JobManager,
        runner: Runner,
        models: SessionModels,
        masks: MaskLayers,
    ) -> None:
        self._viewer, self._session = viewer, session
        self._jobs, self._runner = jobs, runner
        self._models, self._masks = models, masks

    def show_difference(self) -> None:
        """Add a layer of the differences between the masks before the last training and now."""
        with refusing(self._session):
            prediction = self._masks.current
            if prediction is None or not prediction.masks.can_bring_back:
                raise UserError(messages.NOTHING_BEFORE)
            image = prediction.image

            def show(difference: Any) -> None:
                if image in self._viewer.layers:
                    napari_layers.show_difference(self._viewer, image, difference)
                    self._session.say(messages.DIFFERENCE)

            def failed(error: BaseException) -> None:
                text = messages.explain(error, "Comparing the masks")
                self._session.say(text, Level.WARNING)

            self._runner.query(prediction.masks.difference, show, failed, about="difference")

    def bring_back(self) -> None:
        """Use the model from before the last training again, with its masks."""
        with refusing(self._session):
            self._jobs.check_free()
            before, now = self._models.before, self._session.entry
            if before is None or now is None:
                raise UserError(messages.NOTHING_BEFORE)
            self._jobs.stop_idle()
            self._masks.bring_back()
            self._models.use(before)
            self._models.before = now
            self._session.retrain = False
            self._session.say(f"{before.name} is in use again, with its mask.")
