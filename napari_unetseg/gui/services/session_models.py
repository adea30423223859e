"""Models of a session: current one, history, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state import messages

if TYPE_CHECKING:
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import ModelEntry, Session
    from napari_unetseg.models.model import Model

MOST_MODELS = 10
"""Number of unsaved models in memory; a project keeps the files of more."""


class SessionModels:
    """Adds models and chooses the current one.

    Attributes
    ----------
    before
        The model before the last training; None if there is none.
    """

    def __init__(self, session: Session, sources: ImageSources, masks: MaskLayers) -> None:
        self._session, self._sources, self._masks = session, sources, masks
        self.before: ModelEntry | None = None
        self._marked = True

    @property
    def model(self) -> Model:
        """The current model; raises `UserError` if there is none."""
        if self._session.entry is None:
            raise UserError(messages.NO_MODEL)
        return self._session.entry.model

    def add(self, entry: ModelEntry) -> None:
        """Add a model to the history and use it."""
        session, used = self._session, (self._session.entry, self.before)
        history = (*session.history, entry)
        newest = history[-MOST_MODELS:]  # weights use memory
        session.history = tuple(
            e for e in history if e in newest or e in used or e.path is not None
        )
        self.use(entry)

    def use(self, entry: ModelEntry) -> None:
        """Use a model."""
        self._session.entry = entry
        self._match_settings(entry.model)

    def begin_training(self) -> None:
        """Save the current model as the one before, as soon as a training has a newer one to show.

        Not immediately: after a failed training there is nothing to revert.
        """
        self._marked = False

    def mark(self) -> None:
        """Save the current model and its masks, as a training has a newer model."""
        if not self._marked:
            self._marked, self.before = True, self._session.entry
            self._masks.mark()

    def _match_settings(self, model: Model) -> None:
        """Set the training settings to those of the current network, to continue training it.

        A 3D network is skipped if the chosen image has no volumes.
        """
        net = model.net
        if net.dims == 3 and self._session.image is not None and not self._sources.has_volumes():
            return
        weights = self._session.settings.encoder_weights
        if not ARCHITECTURES[net.encoder].encoder_weights:
            weights = None
        self._session.change_settings(
            dims=net.dims,
            depth=net.depth,
            width=net.width,
            norm=net.norm,
            dropout=net.dropout,
            encoder=net.encoder,
            encoder_weights=weights,
        )
