"""Export of masks to image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.io.numbered_planes import NumberedPlanes
from napari_unetseg.io.write_masks import write_mask
from napari_unetseg.io.write_outlines import OUTLINE_SUFFIXES, write_outlines
from napari_unetseg.jobs.window_tasks import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Labels

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session


class Export:
    """Writes masks of the chosen image."""

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        masks: MaskLayers,
        alignment: LayerAlignment,
    ) -> None:
        self._session, self._jobs, self._masks = session, jobs, masks
        self._sources, self._alignment = sources, alignment

    def write(self, layer: Labels | None, path: Path) -> None:
        """Write a mask layer of the chosen image, in the format of the suffix.

        TIFF, OME-TIFF or PNG; or the outlines of its objects, ``.zip`` or ``.geojson``.
        """
        with refusing(self._session):
            self._jobs.check_free()
            if layer is None:
                raise UserError("There is no mask to export; press 'Predict' first.")
            stack = self._sources.stack()
            self._alignment.check_mask(layer)
            mask = napari_layers.mask_of(self._session.image, layer)
            outlined = path.suffix.lower() in OUTLINE_SUFFIXES
            write = (self._outlines if outlined else self._mask)(path, mask, stack)
            text = f"Writing {path.name}"
            self._jobs.start(JobKind.EXPORT, text, at_once(write), self._on_written)

    def _mask(self, path: Path, mask: np.ndarray, stack: Stack) -> Callable[[], list[Path]]:
        objects = mask.dtype != np.uint8
        return partial(
            write_mask,
            path,
            mask,
            axes=stack.grid_axes,
            spacing=stack.grid_spacing,
            units=stack.grid_units,
            names=None if objects else {s.number: s.name for s in self._session.structures},
        )

    def _outlines(self, path: Path, mask: np.ndarray, stack: Stack) -> Callable[[], list[Path]]:
        """Of numbered objects, or of the connected parts of a mask; with their structures."""
        structures: Any = mask
        if mask.dtype != np.uint8:
            shown = self._masks.current
            layer = shown.layer if shown is not None and shown.alive else None
            image = self._session.image
            structures = None if layer is None else napari_layers.mask_of(image, layer)

        def write() -> list[Path]:
            write_outlines(
                path,
                NumberedPlanes(mask, connected=mask.dtype == np.uint8),
                axes=stack.grid_axes,
                mask=structures,
                structures=self._session.structures,
            )
            return [path]

        return write

    def _on_written(self, paths: list[Path]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        self._session.say(f"Wrote {paths[0]}{more}.", Level.DONE)
