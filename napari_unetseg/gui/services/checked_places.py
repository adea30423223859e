"""Places of checks of quality, by the layers of their images; nothing in them trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_unetseg.annotations.sparse_array import intersection, within
from napari_unetseg.data.held_out_labels import Voxels
from napari_unetseg.gui import layers as napari_layers

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region
    from napari_unetseg.gui.services.project_store import ProjectStore
    from napari_unetseg.io.project.place_rows import CheckedPlace, PlaceState


class CheckedPlaces:
    """Reads and writes the places in the project that is open."""

    changed = Signal()
    """Places are others now."""

    def __init__(self, store: ProjectStore) -> None:
        self._store = store
        self._voxels: dict[int, tuple[CheckedPlace, Voxels]] = {}
        store.replaced.connect(self.changed.emit)

    @property
    def places(self) -> list[CheckedPlace]:
        """All places, in the order in which they were drawn; for any thread."""
        project = self._store.project
        known = {} if project is None else project.places
        return [known[number] for number in sorted(known)]

    def of_state(self, state: PlaceState) -> list[CheckedPlace]:
        """The places of a state."""
        return [place for place in self.places if place.state is state]

    def image_of(self, place: CheckedPlace) -> Any | None:
        """The image layer of a place; None where it is not open."""
        return next((i for i, key in self._store.keys.items() if key == place.image), None)

    def put(self, places: Sequence[CheckedPlace], removed: Sequence[CheckedPlace] = ()) -> None:
        """Write places down, and forget others."""
        project = self._store.project
        if project is not None and (places or removed):
            project.put_places(places, [place.number for place in removed])
            self._store.report_trouble()
            self.changed.emit()

    # -- what is held out ----------------------------------------------------------------------

    def held_out(self, image: Any) -> list[Voxels]:
        """Voxels of an image that nothing may be trained on."""
        return [self._voxels_of(place) for place in self._in(image) if place.held_out]

    def holds_out(self, image: Any, region: Region) -> bool:
        """Whether a region lies in a place that nothing may be trained on."""
        return any(
            place.held_out and intersection(place.region, region) == region
            for place in self._in(image)
        )

    def drawn(self, image: Any, region: Region, *, held_out: bool = False) -> np.ndarray:
        """Which voxels of a region were drawn before, or are ``held_out`` now, boolean."""
        found = np.zeros([s.stop - s.start for s in region], bool)
        for place in self._in(image):
            if held_out and not place.held_out:
                continue
            if (both := intersection(place.region, region)) is not None:
                found[within(both, region)] = True
        return found

    def _in(self, image: Any) -> list[CheckedPlace]:
        """The places of an image, also where another layer shows the same file."""
        keys = {
            key
            for layer, key in list(self._store.keys.items())  # a copy, for any thread
            if layer is image or napari_layers.same_picture(layer, image)
        }
        return [place for place in self.places if place.image in keys] if keys else []

    def _voxels_of(self, place: CheckedPlace) -> Voxels:
        """The same object as long as the place is the same, so that snapshots can be compared."""
        known = self._voxels.get(place.number)
        if known is None or known[0].truth is not place.truth:
            known = place, Voxels(place.region, place.truth != 0)
            self._voxels[place.number] = known
        return known[1]

    # -- structures ----------------------------------------------------------------------------

    def renumber(self, number: int, into: int) -> None:
        """Say another number in all truths, 0 for nothing; every model is measured anew."""
        before = self.places
        truths = [np.where(p.truth == number, into, p.truth).astype(np.uint8) for p in before]
        self.put([replace(p, truth=t, models={}) for p, t in zip(before, truths, strict=True)])

    def restore(self, before: Sequence[CheckedPlace]) -> None:
        """Take back `renumber` for the places that are where they were then."""
        now = {place.number: place.state for place in self.places}
        self.put([place for place in before if now.get(place.number) is place.state])
