"""Random draw of places to check, from what nobody ever labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.io.project.place_rows import CheckedPlace

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.places_on_screen import PlacesOnScreen
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.gui.state.session import ImageSource, Session
    from napari_unetseg.inference.query_strategy import QueryImage
    from napari_unetseg.models.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """A drawn place: source, plane, region, weight, and the voxels of it that count, boolean."""

    source: ImageSource
    plane: tuple[int, ...]
    region: tuple[slice, ...]
    weight: float
    counts: np.ndarray


class PlaceDraw:
    """Draws places over all open images that fit a model."""

    def __init__(
        self,
        session: Session,
        annotations: Annotations,
        masks: MaskLayers,
        screen: PlacesOnScreen,
        checked: CheckedPlaces,
        store: ProjectStore,
    ) -> None:
        self._session, self._annotations, self._masks = session, annotations, masks
        self._screen, self._checked, self._store = screen, checked, store

    def sources(self, model: Model) -> list[ImageSource]:
        """The images to draw from: none of a folder that is trained on."""
        folders = [s.image for s in self._session.sources if s.used and s.on_disk]
        fitting = self._screen.fitting(model)
        paths = [napari_layers.path_of(source.image) for source in fitting]
        return [
            source
            for source, path in zip(fitting, paths, strict=True)
            if path is None or not any(path.is_relative_to(folder) for folder in folders)
        ]

    def work(
        self,
        model: Model,
        sources: Sequence[ImageSource],
        count: int | None,
        seed: int,
        control: JobControl,
    ) -> Callable[[], list[Draw]]:
        """What draws so many places, for any thread; as many as a check has by default."""
        images = [self._query_image(source) for source in sources]
        numbers = dict(self._masks.renumbered.get(model.id, {}))
        device, match = self._session.settings.device, self._session.match_spacing

        def draw() -> list[Draw]:
            from napari_unetseg.inference.check_masks import find_candidates
            from napari_unetseg.inference.quality_estimate import DEFAULT_PLACES, draw_places

            candidates = find_candidates(
                images,
                model,
                seed,
                device=device,
                match_spacing=match,
                numbers=numbers,
                control=control,
            )
            drawn = []
            for place in draw_places(candidates, count or DEFAULT_PLACES, seed):
                one = place.candidate
                counts = ~images[one.image].labelled(one.plane, one.region)
                drawn.append(Draw(sources[one.image], one.plane, one.region, place.weight, counts))
            return drawn

        return draw

    def keep(self, drawn: Sequence[Draw], seed: int) -> None:
        """Write drawn places down, all of them pending."""
        first = 1 + max((place.number for place in self._checked.places), default=0)
        places = []
        for number, one in enumerate(drawn, first):
            image = one.source.image
            if image not in self._store.keys:
                self._store.add(image)
            whole = (*(slice(i, i + 1) for i in one.plane), *one.region)
            truth = np.where(one.counts, BACKGROUND_LABEL, 0).astype(np.uint8)
            truth = truth.reshape([s.stop - s.start for s in whole])
            key = self._store.keys[image]
            places.append(CheckedPlace(number, key, whole, one.weight, seed, truth))
        self._checked.put(places)

    def _query_image(self, source: ImageSource) -> QueryImage:
        """An image, and where anything was ever labelled or drawn."""
        query, annotated = self._screen.query_image(source), self._annotations.of(source.image)

        def known(plane: tuple[int, ...], region: tuple[slice, ...]) -> np.ndarray:
            whole = (*(slice(i, i + 1) for i in plane), *region)
            ever = self._checked.drawn(source.image, whole)
            for origin in LabelSource:
                ever |= annotated.times(origin, whole) != 0
            found: np.ndarray = query.labelled(plane, region) | ever.reshape(
                [s.stop - s.start for s in region]
            )
            return found

        return replace(query, labelled=known)
