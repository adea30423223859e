"""Active learning: navigation to the next region to annotate.

Questions are answered beside the window and beside a training (`Runner.ask`), by the newest model
that is shown. After each suggestion some more windows are looked at ahead, so that the next one is
there at once. PyTorch is imported here inside the functions, so that opening the dock needs none.
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

SECONDS, AHEAD_SECONDS = 1.5, 0.3
"""What a suggestion may take, and how long is looked ahead after it."""
SOURCES = (LabelSource.STROKES, LabelSource.CORRECTIONS, LabelSource.ACCEPTED)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Where the viewer was sent: an image layer, its plane and a region of that."""

    layer: Image
    plane: tuple[int, ...]
    region: tuple[slice, ...]


class NextRegion:
    """Sends the viewer to places worth looking at."""

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
        self.suggestion: Found | None = None
        self.waited: float | None = None
        """Seconds that the last suggestion took."""
        self._queries: dict[str, tuple[tuple[Any, ...], RegionQuery]] = {}
        self._control = JobControl()
        self._asking = False
        viewer.layers.events.removed.connect(self._on_removed)
        events.pixels_changed.connect(self._forget)
        events.closing.connect(self._on_closing)
        events.closed.connect(self._on_closed)

    # -- events --------------------------------------------------------------------------------

    def _on_removed(self, event: Any) -> None:
        self._forget(event.value)

    def _forget(self, layer: Any) -> None:
        """Keep nothing of an image that is gone, or another one now."""
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
        """Go to the most useful region not yet labelled, across planes, time points and images."""
        with refusing(self._session):
            self._ask("region", self._wanted_model(), None)

    def next_disagreement(self) -> None:
        """Go to where the model in use and the one before differ most."""
        with refusing(self._session):
            now = self._wanted_model()
            before = self._before(now)
            if before.classes.numbers != now.classes.numbers or before.dims != now.dims:
                raise UserError(messages.OTHER_CLASSES)
            self._ask("disagreement", now, before)

    def next_plane(self) -> None:
        """Go to the next plane on which nothing is labelled, corrected or accepted."""
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
        self.suggestion = Found(image, plane, region)
        self._places.show(image, plane, region)

    def _ask(self, kind: str, model: Model, before: Model | None) -> None:
        """Ask for a suggestion beside the window; a second press while it is looked for waits."""
        if self._asking:
            return
        query, sources = self._query_for(kind, model)
        threads = self._jobs.thread_count()
        device, match = self._session.settings.device, self._session.match_spacing
        self._control.stop()  # what is looked at ahead makes room
        self._control = control = JobControl(threads)

        def score(seconds: float) -> None:
            query.clock = self.clock
            looks = query.score_windows(
                model, seconds, before=before, device=device, match_spacing=match, control=control
            )
            for _ in looks:
                pass

        def question() -> tuple[Suggestion | Exception, float]:
            start = self.clock()
            try:
                if not query.ready:
                    score(SECONDS)
                return query.suggest(), self.clock() - start
            except Exception as error:  # noqa: BLE001 - said by the window's thread
                return error, self.clock() - start

        def answer(found: tuple[Suggestion | Exception, float]) -> None:
            self._asking = False
            what, self.waited = found
            if isinstance(what, Exception):
                complain(self._session, what, "Looking for a place")
                return
            source = sources[what.image]
            if source.image in self._viewer.layers:
                self._show(source.image, what.plane, what.region)
                self._session.say(messages.HERE[kind].format(source.image.name))
                self._runner.query(ahead, lambda _: None, about="look")

        def ahead() -> None:
            with suppress(UserError):
                score(AHEAD_SECONDS)

        self._asking = True
        if not query.ready:
            self._session.say(messages.LOOKING)
        self._runner.query(question, answer, about="look")

    def _query_for(self, kind: str, model: Model) -> tuple[RegionQuery, list[ImageSource]]:
        """What is known of the images so far; begun anew when other images are open."""
        from napari_unetseg.inference.query_strategy import RegionQuery

        sources = self._places.fitting(model)
        key = (model.dims, *((s.image, s.channels, s.labels, s.kind) for s in sources))
        if kind not in self._queries or self._queries[kind][0] != key:
            images = [self._places.query_image(source) for source in sources]
            self._queries[kind] = (key, RegionQuery(images, model.dims))
        return self._queries[kind][1], sources

    def _wanted_model(self) -> Model:
        model = self._session.newest_model
        if model is None:
            raise UserError(messages.NO_MODEL)
        return model

    def _before(self, now: Model) -> Model:
        """The model that was in use before this one."""
        if self._session.improved is not None and self._session.entry is not None:
            return self._session.entry.model
        earlier = [e.model for e in self._session.history if e.model.id != now.id]
        if not earlier:
            raise UserError(messages.NO_OTHER_MODEL)
        return earlier[-1]


def _holds(part: Any, layer: Any) -> bool:
    """Whether a part of a survey's key has to do with a layer."""
    return isinstance(part, tuple) and any(
        one is layer or (isinstance(one, tuple) and any(each is layer for each in one))
        for one in part
    )


def _labelled_planes(annotated: ImageAnnotations) -> set[tuple[int, ...]]:
    """Planes of which something was said."""
    return set().union(*(annotated.grid(origin).planes() for origin in SOURCES))


def _from(shape: Sequence[int], here: tuple[int, ...] | None) -> Iterator[tuple[int, ...]]:
    """All planes, beginning after one of them if it is given."""
    count = int(np.prod(shape, dtype=np.int64))
    start = 0 if here is None or not shape else int(np.ravel_multi_index(here, shape)) + 1
    numbers = itertools.chain(range(start, count), range(start if here is not None else 0))
    for number in numbers:
        yield tuple(int(i) for i in np.unravel_index(number, shape)) if shape else ()
