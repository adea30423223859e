"""Uncertainty layer of the viewport.

PyTorch is imported here inside the functions, so that opening the dock needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import complain
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    import numpy as np
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.models.model import Model

REST = 4.0
"""Pause before the same plane is recomputed, as a multiple of the last computing time."""
PASSES = 4
"""Mirrored passes that are averaged while no job runs."""


class UncertaintyDisplay:
    """Keeps the uncertainty layer up to date while the session wants it."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        sources: ImageSources,
        jobs: JobManager,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session, self._sources = viewer, session, sources
        self._jobs, self._runner = jobs, runner
        self.clock: Callable[[], float] = time.perf_counter
        self._layer: napari_layers.UncertaintyLayer | None = None
        self._shown: tuple[Any, ...] | None = None
        self._paused_until = 0.0
        self._computing = False
        self._session.events.uncertain.connect(self._on_uncertain)
        viewer.layers.events.removed.connect(self._on_removed)
        events.pixels_changed.connect(self._forget)
        events.tick.connect(self._on_tick)
        events.closed.connect(self._on_closed)

    def show(self, wanted: bool) -> None:
        """Show or hide the network's uncertainty in the viewport."""
        self._session.uncertain = wanted

    def _on_uncertain(self) -> None:
        self._shown, self._paused_until = None, 0.0
        if not self._session.uncertain:
            self._remove()
        elif self._session.newest_model is None:
            self._session.say(messages.NO_MODEL, Level.WARNING)

    def _on_removed(self, event: Any) -> None:
        self._forget(event.value)

    def _forget(self, layer: Any) -> None:
        """Forget all state of a removed or replaced image."""
        if self._shown is not None and self._shown[0] is layer:
            self._shown = None
        if self._layer is not None and self._layer.image is layer:
            self._remove()

    def _remove(self) -> None:
        if self._layer is not None:
            layer, self._layer = self._layer, None
            layer.remove()

    def _on_closed(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _on_tick(self, _: float) -> None:
        """Compute the uncertainty of the viewport if it is missing."""
        if self._layer is not None and not self._layer.alive:  # the user deleted it
            self._remove()
            self._session.uncertain = False
        model, image = self._session.newest_model, self._session.image
        if not self._session.uncertain or model is None or image is None or self._computing:
            return
        with suppress(UserError):
            plane = napari_layers.plane_on_screen(self._viewer, image, model.dims)
            how = (model.id, self._session.match_spacing)
            shown, wanted = self._shown, (image, plane, how)
            rested = self.clock() >= self._paused_until
            if shown is None or shown[:2] != wanted[:2] or (rested and shown[:3] != wanted):
                self._map(model, image, plane, 1)
            elif rested and self._session.job is None and shown[3] < PASSES:
                self._map(model, image, plane, PASSES)

    def _map(self, model: Model, image: Image, plane: tuple[int, ...], passes: int) -> None:
        stack, start = self._sources.stack(), self.clock()
        model.check_image(stack)
        how = {"device": self._session.settings.device, "threads": self._jobs.thread_count()}
        match = self._session.match_spacing
        self._shown, self._computing = (image, plane, (model.id, match), passes), True

        def compute() -> np.ndarray | Exception:
            from napari_unetseg.core.settings import PredictSettings
            from napari_unetseg.inference.uncertainty import uncertainty_map

            settings = PredictSettings.model_validate(how | {"match_spacing": match})
            try:
                return uncertainty_map(model, stack, plane, settings, passes=passes)
            except Exception as error:  # noqa: BLE001 - reported by the GUI thread
                return error

        def deliver(found: np.ndarray | Exception) -> None:
            self._computing = False
            self._paused_until = self.clock() + REST * (self.clock() - start)
            if isinstance(found, Exception):
                complain(self._session, found, "Looking for a place")
            elif self._session.uncertain and image in self._viewer.layers:
                if self._layer is None or self._layer.image is not image:
                    self._remove()
                    self._layer = napari_layers.UncertaintyLayer(self._viewer, image)
                self._layer.write(plane, found)

        self._runner.query(compute, deliver, about="uncertainty")
