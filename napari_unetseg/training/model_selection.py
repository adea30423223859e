"""When a training answers newer strokes, and whether what was found for them is shown."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_unetseg.runtime.devices import release_memory
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.stroke_adaptation import FEW, StrokeAnswer, as_good
from napari_unetseg.training.training_state import Checkpoint

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.training.trainer import Trainer, Weights
    from napari_unetseg.training.training_events import ModelImproved
    from napari_unetseg.training.training_state import TrainingState


class StoppedError(Exception):
    """A stop was asked for before there was an answer."""


class ModelSelection:
    """Shows models that know newer strokes better and are as good on the validation blocks.

    The training itself goes its own way; where there is no answer at once, its epochs are looked at
    for one. Without a score the newest is shown after each of them in any case.

    Parameters
    ----------
    trainer, state
        Of the training: what it learned, and the model it shows.
    look_up
        Called between pieces of work; raises `StoppedError` where a stop was asked for.
    answered
        The event that tells of the model now shown, from its scores and those of the one before.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: TrainingState,
        look_up: Callable[[], object],
        answered: Callable[[Scores, Scores], ModelImproved],
    ) -> None:
        self.trainer, self.state = trainer, state
        self._look_up, self._answered = look_up, answered
        self._number = 0
        self._asked: StrokeAnswer | None = None

    def to(self, newer: VoxelIndices) -> Generator[Event, None, None]:
        """Answer these strokes, which end the search for an answer to those before."""
        self._asked, shown = None, self.state.best
        if not newer or shown is None or shown.scores is None:
            return
        self._number += 1
        with self._sparing_memory():
            asked = StrokeAnswer(self.trainer, shown.weights, newer, self._number)
            if asked.wrong(shown.weights) > FEW:
                self._asked = asked
                yield from self._try(self._candidates(asked))

    def again(self) -> Generator[Event, None, None]:
        """Look at what the training learned since, if strokes wait for an answer."""
        if self._asked is not None:
            yield from self._try([self.trainer.weights()])

    def _candidates(self, asked: StrokeAnswer) -> Iterator[Weights]:
        """Those of the training under way, then those on the way to what a copy learns."""
        yield self.trainer.weights()
        if (weights := asked.least(asked.learn(self._look_up))) is not None:
            yield weights

    def _try(self, candidates: Iterable[Weights]) -> Generator[Event, None, None]:
        """Show the first weights that answer the strokes, if there are any.

        Half of what the model shown has wrong must be right: else the mask hardly changes there.
        """
        asked, state, shown = self._asked, self.state, self.state.best
        if asked is None or shown is None or shown.scores is None:
            return
        with self._sparing_memory():
            wrong = asked.wrong(shown.weights)
            highest = max(state.best_score, shown.scores.soft_dice)
            for weights in candidates if wrong > FEW else ():
                self._look_up()
                if asked.wrong(weights) > wrong / 2:
                    continue
                scores = self.trainer.score(weights)
                if scores and as_good(scores, shown.scores, highest):
                    self._asked = None
                    state.show(Checkpoint(weights, scores))
                    yield self._answered(scores, shown.scores)
                    return

    @contextmanager
    def _sparing_memory(self) -> Iterator[None]:
        """Training goes on without an answer where there is no memory for one, or it is to stop."""
        try:
            yield
        except StoppedError:
            pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._asked = None
            release_memory(self.trainer.device)
