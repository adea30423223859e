"""Export of masks, and of the outlines of objects."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import JobKind, Level
from napari_unetseg.inference.large.mask_numbers import MaskParts
from napari_unetseg.io.outline_formats import OUTLINE_FORMATS
from napari_unetseg.io.write_masks import write_mask
from napari_unetseg.io.write_outlines import write_outlines
from napari_unetseg.jobs.window_tasks import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Labels

    from napari_unetseg.core.labels import Structure
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.layer_alignment import LayerAlignment
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import Session

OUTLINES = tuple(suffix for f in OUTLINE_FORMATS for suffix in f.suffixes)


class Export:
    """Writes masks of the chosen image, and outlines of their objects."""

    def __init__(
        self,
        session: Session,
        jobs: JobManager,
        sources: ImageSources,
        alignment: LayerAlignment,
        masks: MaskLayers,
    ) -> None:
        self._session, self._jobs = session, jobs
        self._sources, self._alignment, self._masks = sources, alignment, masks

    def write(self, layer: Labels | None, path: Path) -> None:
        """Write a mask or an object layer of the chosen image.

        The suffix selects TIFF, OME-TIFF or PNG, or outlines of the objects: ROIs of ImageJ or
        GeoJSON. Objects of a mask of structures are its connected parts in each plane.
        """
        with refusing(self._session):
            self._jobs.check_free()
            if layer is None:
                raise UserError("There is no mask to export; press 'Predict' first.")
            stack = self._sources.stack()
            self._alignment.check_mask(layer)
            mask = napari_layers.mask_of(self._session.image, layer)
            outlines = path.name.lower().endswith(OUTLINES)
            write = (self._outlines if outlines else self._file)(path, mask, stack)
            text = f"Writing {path.name}"
            self._jobs.start(JobKind.EXPORT, text, at_once(write), self._on_written)

    def _file(self, path: Path, mask: Any, stack: Stack) -> Callable[[], list[Path]]:
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

    def _outlines(self, path: Path, mask: Any, stack: Stack) -> Callable[[], list[Path]]:
        structures = self._session.structures
        if mask.dtype == np.uint8:
            parts = MaskParts(Stack(mask, stack.grid_axes))
            return partial(_write_outlines, path, parts, stack.grid_axes, mask, structures)
        prediction = self._masks.current
        classes = None
        if prediction is not None and prediction.alive and prediction.layer is not None:
            classes = napari_layers.mask_of(self._session.image, prediction.layer)
        else:
            structures = tuple(s for s in structures if s.objects)
        return partial(_write_outlines, path, mask, stack.grid_axes, classes, structures)

    def _on_written(self, paths: list[Path]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        self._session.say(f"Wrote {paths[0]}{more}.", Level.DONE)


def _write_outlines(
    path: Path, ids: Any, axes: str, mask: Any | None, structures: Sequence[Structure]
) -> list[Path]:
    write_outlines(path, ids, axes=axes, mask=mask, structures=structures)
    return [path]
