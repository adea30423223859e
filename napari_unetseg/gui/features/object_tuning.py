"""How the model in use finds objects: settings with a preview on the plane on screen."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_unetseg.gui.state.refusal import refusing

if TYPE_CHECKING:
    from napari_unetseg.core.settings import ObjectSettings
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.object_layers import ObjectLayers
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session
    from napari_unetseg.jobs.plane_objects import ObjectsFound

REST_SECONDS = 0.15
"""Seconds without a change after which it is applied."""


class ObjectTuning:
    """Changes the settings of the model in use; the newest maps show what they do."""

    def __init__(
        self,
        session: Session,
        masks: MaskLayers,
        layers: ObjectLayers,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._session, self._masks = session, masks
        self._layers, self._runner = layers, runner
        self._wanted: ObjectSettings | None = None
        self._changed_at = 0.0
        session.events.entry.connect(self._forget, max_args=0)
        events.tick.connect(self._on_tick)

    @property
    def settings(self) -> ObjectSettings | None:
        """Those of the model in use, with changes that wait; None where it has no such settings."""
        entry = self._session.entry
        return self._wanted or (entry.model.object_settings if entry is not None else None)

    def change(self, **values: Any) -> None:
        """Change settings, by their names in `ObjectSettings`, as soon as they rest."""
        settings = self.settings
        if settings is None or self._session.job is not None:
            return
        with refusing(self._session):
            changed = type(settings).model_validate({**settings.model_dump(), **values})
            if changed != settings:
                self._wanted, self._changed_at = changed, time.perf_counter()

    def _forget(self) -> None:
        self._wanted = None

    def _on_tick(self, now: float) -> None:
        if self._wanted is not None and now - self._changed_at > REST_SECONDS:
            settings, self._wanted = self._wanted, None
            self._apply(settings)

    def _apply(self, settings: ObjectSettings) -> None:
        """Put the settings into the model in use, and find the objects on screen anew."""
        session, entry = self._session, self._session.entry
        if entry is None:
            return
        changed = replace(entry, model=entry.model.finding_objects(settings))
        session.history = tuple(changed if e is entry else e for e in session.history)
        session.entry = changed
        image = session.image
        found = self._layers.newest.get(image)
        if found is not None and found.maps is not None:
            show = partial(self._show, image)
            self._runner.query(partial(found.found_with, settings), show, about="object settings")

    def _show(self, image: Any, found: ObjectsFound) -> None:
        prediction = self._masks.predictions.get(image)
        if prediction is not None and prediction.alive:
            self._layers.put(image, found, prediction.layer, hide=False)
