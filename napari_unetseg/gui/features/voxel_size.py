"""Voxel sizes of the chosen image and the model: comparison and matching."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, OtherSpacing
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import JobKind, Mode, VoxelSizeMismatch

if TYPE_CHECKING:
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import Session

COMPARE_SECONDS = 0.5
"""Seconds between comparisons while the choice stays the same."""


class VoxelSize:
    """Compares voxel sizes, and stores whether prediction resamples to the model's."""

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        masks: MaskLayers,
        events: AppEvents,
    ) -> None:
        self._session, self._jobs = session, jobs
        self._sources, self._masks = sources, masks
        self._reported: set[tuple[Any, str]] = set()
        self._compared: tuple[Any, ...] = ()
        self._compared_at = 0.0
        events.job_event.connect(self._on_event)
        events.image_removed.connect(self._forget)
        events.tick.connect(self._on_tick)

    def _on_tick(self, _: float) -> None:
        """Compare periodically, as a layer's scale may change at any time."""
        session, now = self._session, time.monotonic()
        chosen = (session.entry, session.image, session.match_spacing)
        if chosen != self._compared or now - self._compared_at > COMPARE_SECONDS:
            self._compared, self._compared_at = chosen, now
            self.update()

    def update(self) -> None:
        """Compare the voxel sizes of the chosen image and model."""
        found = None
        if self._session.entry is not None and self._session.image is not None:
            with suppress(UserError):
                found = self._note()
        self._session.sizes = found

    def _note(self) -> VoxelSizeMismatch | None:
        from napari_unetseg.models.voxel_sizes import VoxelSizes, fit_spacing

        entry, stack = self._session.entry, self._sources.stack()
        assert entry is not None
        entry.model.check_image(stack)
        sizes = VoxelSizes.compare(entry.model, stack)
        possible = not sizes.obstacle(stack.name)
        if self._session.match_spacing and possible:
            notice = fit_spacing(entry.model, stack, match=True).notice
            return None if notice is None else VoxelSizeMismatch(notice.text, sizes.what, possible)
        if not sizes.differ:
            return None
        text = sizes.describe(stack.name)
        if not possible:
            text += f" {messages.SIZE_UNKNOWN if sizes.unknown else messages.TOO_FAR}"
        return VoxelSizeMismatch(text, sizes.what, possible)

    def choose(self, wanted: bool) -> None:
        """Predict at the model's voxel size, or at the image's."""
        if wanted == bool(self._session.match_spacing):
            return
        self._session.match_spacing = "auto" if wanted else False
        self._masks.invalidate()
        self._jobs.stop_idle()
        self.update()
        if self._session.mode is not Mode.LIVE and self._masks.current is not None:
            self._session.say(messages.PREDICT_AGAIN)

    def say(self) -> Notice | None:
        """Warn in the status line about differing sizes, once for each image and model."""
        session = self._session
        if session.match_spacing or session.entry is None:
            return None
        pair = (session.image, session.entry.model.id)
        if pair in self._reported:
            return None
        self._reported.add(pair)
        self.update()
        if session.sizes is None:
            return None
        text, what = session.sizes.text, session.sizes.what
        if session.sizes.possible:
            text += f" {messages.MATCH_SPACING.format(what)}"
        notice = Notice(text, warning=True)
        session.say_notice(notice)
        return notice

    def _on_event(self, kind: JobKind, event: Event) -> None:
        if not isinstance(event, OtherSpacing):
            return
        if kind is JobKind.LIVE:
            self.say()
        elif kind is JobKind.PREDICT and (notice := self.say()) is not None:
            self._jobs.add_notice(notice)

    def _forget(self, image: Any) -> None:
        self._reported = {pair for pair in self._reported if pair[0] is not image}
        self._compared = ()  # it may hold the removed image
