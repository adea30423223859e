"""Active learning: navigation to the next region to annotate.

Queries run in a thread of their own, also during a training (`Runner.query`), with the newest model
that is shown. After each suggestion some more windows are scored in advance, so that the next one
is immediate. PyTorch is imported here inside the functions, so that opening the dock needs none.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import complain, refusing

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.job_manager import JobManager
    from napari_unetseg.gui.services.job_runner import Runner
    from napari_unetseg.gui.services.places_on_screen import PlacesOnScreen
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import ImageSource, Session
    from napari_unetseg.inference.query_strategy import RegionQuery, Suggestion
    from napari_unetseg.models.model import Model

SECONDS, PREFETCH_SECONDS = 1.5, 0.3
"""Time limits in seconds of a suggestion and of scoring in advance after it."""
SOURCES = (LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED)


@dataclass(frozen=True, slots=True, eq=False)
class FoundRegion:
    """Target of the viewer: an image layer, its plane and a region in that plane."""

    layer: Image
    plane: tuple[int, ...]
    region: tuple[slice, ...]


class NextRegion:
    """Moves the viewer to the most informative regions."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        annotations: Annotations,
        places: PlacesOnScreen,
        jobs: JobManager,
        runner: Runner,
        events: AppEvents,
    ) -> None:
        self._viewer, self._session = viewer, session
        self._annotations, self._places = annotations, places
        self._jobs, self._runner = jobs, runner
        self.clock: Callable[[], float] = time.perf_counter
        self.suggestion: FoundRegion | None = None
        self.waited: float | None = None
        """Seconds that the last suggestion took."""
        self._queries: dict[str, tuple[tuple[Any, ...], RegionQuery]] = {}
        self._control = JobControl()
        self._query_running = False
        viewer.layers.events.removed.connect(self._on_removed)
        events.pixels_changed.connect(self._forget)
        events.closing.connect(self._on_closing)
        events.closed.connect(self._on_closed)

    # -- events --------------------------------------------------------------------------------

    def _on_removed(self, event: Any) -> None:
        self._forget(event.value)

    def _forget(self, layer: Any) -> None:
        """Forget all state of a removed or replaced image."""
        self._queries = {
            kind: known
            for kind, known in self._queries.items()
            if not any(_holds(part, layer) for part in known[0])
        }
        if self.suggestion is not None and self.suggestion.layer is layer:
            self.suggestion = None

    def _on_closing(self) -> None:
        self._control.stop()

    def _on_closed(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    # -- suggestions ---------------------------------------------------------------------------

    def next_region(self) -> None:
        """Go to the most informative unlabelled region of all planes, time points and images."""
        with refusing(self._session):
            self._request("region", self._wanted_model(), None)

    def next_disagreement(self) -> None:
        """Go to the largest difference between the current model and the previous one."""
        with refusing(self._session):
            now = self._wanted_model()
            before = self._before(now)
            if before.classes.numbers != now.classes.numbers or before.dims != now.dims:
                raise UserError(messages.OTHER_CLASSES)
            self._request("disagreement", now, before)

    def next_plane(self) -> None:
        """Go to the next plane without labels, corrections or accepted regions."""
        with refusing(self._session):
            sources, chosen = self._places.sources(), self._session.image
            if chosen is None:
                raise UserError(messages.NO_IMAGE)
            here = next((n for n, s in enumerate(sources) if s.image is chosen), 0)
            plane = napari_layers.plane_on_screen(self._viewer, chosen, 2)
            for source in [*sources[here:], *sources[:here]]:
                stack = napari_layers.stack_of(source.image, source.channels)
                after = plane if source.image is chosen else None
                done = _labelled_planes(self._annotations.of(source.image))
                free = (p for p in _from(stack.leading_shape(2), after) if p not in done)
                if (found := next(free, None)) is not None:
                    self._show(source.image, found, stack.whole(2))
                    self._session.say(messages.HERE["plane"].format(source.image.name))
                    return
            raise UserError(messages.NO_PLANE_LEFT)

    def _show(self, image: Image, plane: tuple[int, ...], region: tuple[slice, ...]) -> None:
        self.suggestion = FoundRegion(image, plane, region)
        self._places.show(image, plane, region)

    def _request(self, kind: str, model: Model, before: Model | None) -> None:
        """Request a suggestion; a second request while one is computed waits."""
        if self._query_running:
            return
        query, sources = self._query_for(kind, model)
        threads = self._jobs.thread_count()
        device, match = self._session.settings.device, self._session.match_spacing
        self._control.stop()  # scoring in advance makes way
        self._control = control = JobControl(threads)

        def score(seconds: float) -> None:
            query.clock = self.clock
            windows = query.score_windows(
                model, seconds, before=before, device=device, match_spacing=match, control=control
            )
            for _ in windows:
                pass

        def compute() -> tuple[Suggestion | Exception, float]:
            start = self.clock()
            try:
                if not query.ready:
                    score(SECONDS)
                return query.suggest(), self.clock() - start
            except Exception as error:  # noqa: BLE001 - reported by the GUI thread
                return error, self.clock() - start

        def deliver(found: tuple[Suggestion | Exception, float]) -> None:
            self._query_running = False
            what, self.waited = found
            if isinstance(what, Exception):
                complain(self._session, what, "Looking for a place")
                return
            source = sources[what.image]
            if source.image in self._viewer.layers:
                self._show(source.image, what.plane, what.region)
                self._session.say(messages.HERE[kind].format(source.image.name))
                self._runner.query(prefetch, lambda _: None, about="look")

        def prefetch() -> None:
            with suppress(UserError):
                score(PREFETCH_SECONDS)

        self._query_running = True
        if not query.ready:
            self._session.say(messages.LOOKING)
        self._runner.query(compute, deliver, about="look")

    def _query_for(self, kind: str, model: Model) -> tuple[RegionQuery, list[ImageSource]]:
        """The query over all open images; a new one when the set of images changed."""
        from napari_unetseg.inference.query_strategy import RegionQuery

        sources = self._places.fitting(model)
        key = (model.dims, *((s.image, s.channels, s.labels, s.kind) for s in sources))
        if kind not in self._queries or self._queries[kind][0] != key:
            images = [self._places.query_image(source) for source in sources]
            query = RegionQuery(images, model.dims, self._session.settings.seed)
            self._queries[kind] = (key, query)
        return self._queries[kind][1], sources

    def _wanted_model(self) -> Model:
        model = self._session.newest_model
        if model is None:
            raise UserError(messages.NO_MODEL)
        return model

    def _before(self, now: Model) -> Model:
        """The previous model."""
        if self._session.improved is not None and self._session.entry is not None:
            return self._session.entry.model
        earlier = [e.model for e in self._session.history if e.model.id != now.id]
        if not earlier:
            raise UserError(messages.NO_OTHER_MODEL)
        return earlier[-1]


def _holds(part: Any, layer: Any) -> bool:
    """Whether part of a query's key belongs to a layer."""
    return isinstance(part, tuple) and any(
        one is layer or (isinstance(one, tuple) and any(each is layer for each in one))
        for one in part
    )


def _labelled_planes(annotated: ImageAnnotations) -> set[tuple[int, ...]]:
    """Planes with any annotation."""
    return set().union(*(annotated.grid(origin).planes() for origin in SOURCES))


def _from(shape: Sequence[int], here: tuple[int, ...] | None) -> Iterator[tuple[int, ...]]:
    """All planes, starting after the given one."""
    count = int(np.prod(shape, dtype=np.int64))
    start = 0 if here is None or not shape else int(np.ravel_multi_index(here, shape)) + 1
    numbers = itertools.chain(range(start, count), range(start if here is not None else 0))
    for number in numbers:
        yield tuple(int(i) for i in np.unravel_index(number, shape)) if shape else ()
