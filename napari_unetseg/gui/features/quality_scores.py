"""Quality of every model of the session at the checked places."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.io.project.place_rows import CheckedPlace, ModelOverlaps, PlaceState

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.gui.services.checked_places import CheckedPlaces
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.state.session import ModelEntry, Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """The mask of a model at a place, to be compared with the truth; ``overlaps`` once it is."""

    entry: ModelEntry
    place: CheckedPlace
    image: Any
    stack: Stack
    overlaps: ModelOverlaps | None = None


class QualityScores:
    """Compares masks with checked places beside the window, and shows what they say."""

    def __init__(
        self, session: Session, checked: CheckedPlaces, masks: MaskLayers, runner: Runner
    ) -> None:
        self._session, self._checked = session, checked
        self._masks, self._runner = masks, runner
        self._failed: set[tuple[str, int, float]] = set()
        self._shown: tuple[list[CheckedPlace], list[str]] = [], []
        checked.changed.connect(self._on_change)
        session.events.history.connect(self._on_change, max_args=0)
        session.events.sources.connect(self._on_change, max_args=0)

    def _on_change(self) -> None:
        """Show the quality as it is known, and measure what is not."""
        self._show()
        if not self._session.measuring and (missing := self._missing()):
            self._measure(missing)

    def _show(self) -> None:
        places = [place for place in self._checked.places if place.models]
        order = [entry.model.id for entry in self._session.history]
        if (places, order) == self._shown:
            return
        self._shown = places, order
        from napari_unetseg.inference.quality_table import quality_of

        self._session.quality = tuple(quality_of(places, order))

    def _missing(self) -> list[Measurement]:
        """Models of the session and places that were not compared yet."""
        found = []
        stacks: dict[Any, Stack] = {}
        for place in self._checked.of_state(PlaceState.CHECKED):
            image = self._checked.image_of(place)
            for entry in self._session.history if image is not None else ():
                key = entry.model.id, place.number, place.seconds
                if entry.model.id not in place.models and key not in self._failed:
                    if image not in stacks:
                        source = self._session.source(image)
                        channels = source.channels if source else ()
                        stacks[image] = napari_layers.stack_of(image, channels)
                    found.append(Measurement(entry, place, image, stacks[image]))
        return found

    def _measure(self, missing: list[Measurement]) -> None:
        settings, match = self._session.settings, self._session.match_spacing
        numbers = {
            entry.model.id: dict(self._masks.renumbered.get(entry.model.id, {}))
            for entry in self._session.history
        }
        structures = [s.number for s in self._session.structures]

        def measure() -> list[Measurement]:
            from napari_unetseg.inference.check_masks import PlanePredictor
            from napari_unetseg.inference.quality_estimate import overlap_counts

            done = []
            predictors: dict[tuple[str, int], PlanePredictor] = {}
            for one in missing:
                model, region = one.entry.model, one.place.region
                key = model.id, id(one.image)
                try:
                    if key not in predictors:
                        predictors[key] = PlanePredictor(
                            model, one.stack, settings.device, match, numbers[model.id]
                        )
                    plane = tuple(s.start for s in region[:-2])
                    mask = predictors[key].mask(plane, region[-2:])
                except UserError as error:  # such as a model of other images
                    log.info("%s is not measured: %s", one.entry.name, error)
                    done.append(one)
                    continue
                found = {*structures, *np.unique(mask).tolist()} - {0}
                counts = overlap_counts(one.place.truth.reshape(mask.shape), mask, sorted(found))
                name = one.entry.name.split(" · ")[0]
                done.append(replace(one, overlaps=ModelOverlaps(name, counts)))
            return done

        def failed(error: BaseException) -> None:
            log.error("the quality of models could not be measured", exc_info=error)
            self._keep(missing)

        self._session.measuring = True
        self._runner.query(measure, self._keep, failed, about="quality")

    def _keep(self, done: Iterable[Measurement]) -> None:
        """Write down what was measured, where the place is as it was."""
        new = {place.number: place for place in self._checked.of_state(PlaceState.CHECKED)}
        changed = set()
        for one in done:
            model, number = one.entry.model.id, one.place.number
            if one.overlaps is None:
                self._failed.add((model, number, one.place.seconds))
            elif (place := new.get(number)) is not None and place.truth is one.place.truth:
                new[number] = replace(place, models={**place.models, model: one.overlaps})
                changed.add(number)
        self._session.measuring = False
        if changed:
            self._checked.put([new[number] for number in changed])
        else:
            self._on_change()
