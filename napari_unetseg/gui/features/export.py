"""Export of masks to image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.io.write_masks import write_mask
from napari_unetseg.jobs.window_tasks import at_once

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.state.session import Session


class Export:
    """Writes masks of the chosen image."""

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        alignment: LayerAlignment,
    ) -> None:
        self._session, self._jobs = session, jobs
        self._sources, self._alignment = sources, alignment

    def write(self, layer: Labels | None, path: Path) -> None:
        """Write a mask layer of the chosen image; the suffix selects TIFF, OME-TIFF or PNG."""
        with refusing(self._session):
            self._jobs.check_free()
            if layer is None:
                raise UserError("There is no mask to export; press 'Predict' first.")
            stack = self._sources.stack()
            self._alignment.check_mask(layer)
            mask = napari_layers.mask_of(self._session.image, layer)
            objects = mask.dtype != np.uint8
            write = partial(
                write_mask,
                path,
                mask,
                axes=stack.grid_axes,
                spacing=stack.grid_spacing,
                units=stack.grid_units,
                names=None if objects else {s.number: s.name for s in self._session.structures},
            )
            text = f"Writing {path.name}"
            self._jobs.start(JobKind.EXPORT, text, at_once(write), self._on_written)

    def _on_written(self, paths: list[Path]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        self._session.say(f"Wrote {paths[0]}{more}.", Level.DONE)
