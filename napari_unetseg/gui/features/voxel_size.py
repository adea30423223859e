"""Voxel sizes of the image at hand and of the model in use: said once, and matched if wanted."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Notice
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Mode, SizesNote

if TYPE_CHECKING:
    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.state.session import Session

__all__ = ["Spacing"]

LOOK_SECONDS = 0.5
"""How often sizes are compared while nothing else is chosen."""


class Spacing:
    """Compares voxel sizes, and keeps whether masks are predicted at the model's.

    Parameters
    ----------
    controller, session
        The controller knows the chosen image, the masks and what looks at the screen.
    """

    def __init__(self, controller: Controller, session: Session) -> None:
        self._controller, self._session = controller, session
        self._said: set[tuple[Any, str]] = set()
        self._looked_at: tuple[Any, ...] = ()
        self._looked = 0.0

    def tick(self) -> None:
        """Called again and again: a layer's scale may change at any time."""
        session, now = self._session, time.monotonic()
        chosen = (session.entry, session.image, session.match_spacing)
        if chosen != self._looked_at or now - self._looked > LOOK_SECONDS:
            self._looked_at, self._looked = chosen, now
            self.look()

    def look(self) -> None:
        """Compare the sizes of what is chosen now."""
        found = None
        if self._session.entry is not None and self._session.image is not None:
            with suppress(UserError):
                found = self._note()
        self._session.sizes = found

    def _note(self) -> SizesNote | None:
        from napari_unetseg.models.voxel_sizes import VoxelSizes, fit_spacing

        entry, stack = self._session.entry, self._controller.stack()
        assert entry is not None
        entry.model.check_image(stack)
        sizes = VoxelSizes.compare(entry.model, stack)
        possible = not sizes.obstacle(stack.name)
        if self._session.match_spacing and possible:
            notice = fit_spacing(entry.model, stack, match=True).notice
            return None if notice is None else SizesNote(notice.text, sizes.what, possible)
        if not sizes.differ:
            return None
        text = sizes.describe(stack.name)
        if not possible:
            text += f" {messages.SIZE_UNKNOWN if sizes.unknown else messages.TOO_FAR}"
        return SizesNote(text, sizes.what, possible)

    def choose(self, wanted: bool) -> None:
        """Predict at the model's voxel size from now on, or at that of the image."""
        if wanted == bool(self._session.match_spacing):
            return
        self._session.match_spacing = "auto" if wanted else False
        for prediction in self._controller.predictions.values():
            prediction.age()
        self._controller.looking.stop()
        self.look()
        if self._session.mode is not Mode.LIVE and self._controller.prediction is not None:
            self._session.say(messages.PREDICT_AGAIN)

    def say(self) -> Notice | None:
        """Say in the status line that a mask may be wrong: once for an image and a model."""
        session = self._session
        if session.match_spacing or session.entry is None:
            return None
        pair = (session.image, session.entry.model.id)
        if pair in self._said:
            return None
        self._said.add(pair)
        self.look()
        if session.sizes is None:
            return None
        text, what = session.sizes.text, session.sizes.what
        if session.sizes.possible:
            text += f" {messages.MATCH_SPACING.format(what)}"
        notice = Notice(text, warning=True)
        session.say_notice(notice)
        return notice

    def forget(self, image: Any) -> None:
        """An image is gone."""
        self._said = {pair for pair in self._said if pair[0] is not image}
        self._looked_at = ()  # which may hold it
