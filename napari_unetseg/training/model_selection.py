"""Selection of the shown model after newer strokes, by newer labels and validation score."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_unetseg.runtime.devices import release_memory
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.stroke_adaptation import TOLERATED_ERROR, StrokeAdaptation, no_worse
from napari_unetseg.training.training_state import Checkpoint

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.training.trainer import Trainer, Weights
    from napari_unetseg.training.training_events import ModelImproved
    from napari_unetseg.training.training_state import TrainingState


class StoppedError(Exception):
    """The job was stopped during stroke adaptation or the fit of the initial model."""


class ModelSelection:
    """Shows weights that fit newer strokes better and score as well on the validation blocks.

    Candidates are the EMA weights, a briefly trained copy, and the EMA weights of later epochs.

    Parameters
    ----------
    trainer, state
        Of the training.
    interrupt
        Called between pieces of work; raises `StoppedError` after a stop.
    adapted_model
        Makes the event for the newly shown model, from its scores and those of the one before.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: TrainingState,
        interrupt: Callable[[], object],
        adapted_model: Callable[[Scores, Scores], ModelImproved],
    ) -> None:
        self.trainer, self.state = trainer, state
        self._interrupt, self._adapted_model = interrupt, adapted_model
        self._adaptations = 0
        self._adaptation: StrokeAdaptation | None = None

    def adapt_to(self, newer: VoxelIndices) -> Generator[Event, None, None]:
        """Adapt the shown model to newer strokes; drops the search for earlier ones."""
        self._adaptation, shown = None, self.state.best
        if not newer or shown is None or shown.scores is None:
            return
        self._adaptations += 1
        with self._optional():
            adaptation = StrokeAdaptation(self.trainer, shown.weights, newer, self._adaptations)
            if adaptation.wrong(shown.weights) > TOLERATED_ERROR:
                self._adaptation = adaptation
                yield from self._try(self._candidates(adaptation))

    def try_newest(self) -> Generator[Event, None, None]:
        """Try the current EMA weights, if strokes are still not fitted."""
        if self._adaptation is not None:
            yield from self._try([self.trainer.weights()])

    def _candidates(self, adaptation: StrokeAdaptation) -> Iterator[Weights]:
        """The EMA weights, then weights between the shown model and a briefly trained copy."""
        yield self.trainer.weights()
        if (weights := adaptation.smallest_change(adaptation.learn(self._interrupt))) is not None:
            yield weights

    def _try(self, candidates: Iterable[Weights]) -> Generator[Event, None, None]:
        """Show the first candidate that halves the errors at newer strokes and scores as well."""
        adaptation, state, shown = self._adaptation, self.state, self.state.best
        if adaptation is None or shown is None or shown.scores is None:
            return
        with self._optional():
            wrong = adaptation.wrong(shown.weights)
            highest = max(state.best_score, shown.scores.soft_dice)
            for weights in candidates if wrong > TOLERATED_ERROR else ():
                self._interrupt()
                if adaptation.wrong(weights) > wrong / 2:
                    continue
                scores = self.trainer.score(weights)
                if scores and no_worse(scores, shown.scores, highest):
                    self._adaptation = None
                    state.show(Checkpoint(weights, scores))
                    yield self._adapted_model(scores, shown.scores)
                    return

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Give the adaptation up on a stop or without memory; training continues."""
        try:
            yield
        except StoppedError:
            pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._adaptation = None
            release_memory(self.trainer.device)
