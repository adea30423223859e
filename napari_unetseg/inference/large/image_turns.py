"""Order of images among concurrent programs with the same outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.core.events import Event, Notice
from napari_unetseg.inference.large.predict_to_zarr import saving

if TYPE_CHECKING:
    from napari_unetseg.core.file_locks import LockOwner
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.inference.large.work_folder import WorkFolder

POLL_SECONDS = 0.3


@dataclass(eq=False)
class Turn:
    """An image to process."""

    stem: str
    image: Path
    """Output name, and path."""
    work: WorkFolder
    """Its work folder, locked unless one of the following says why not."""
    there: bool = False
    """Its outputs exist."""
    problem: Exception | None = None
    """Why it cannot be processed."""


class Turns:
    """Images in order, with those that another program has locked last.

    Parameters
    ----------
    turns
        The images.
    control
        A stop ends waiting at once.
    is_there
        Whether an image is done.
    """

    def __init__(
        self, turns: Iterable[Turn], control: JobControl, is_there: Callable[[Turn], bool]
    ) -> None:
        self._left, self._later = deque(turns), deque[Turn]()
        self._control, self._is_there = control, is_there
        self._again = False
        self._told: set[tuple[str, str, bool]] = set()
        self._refused = ""

    def next(self) -> Generator[Event, None, Turn | None]:
        """The next unlocked image; None when all are done, or after a stop.

        Yields
        ------
        Notice
            Who has an image; that the file system gives no locks.
        """
        while not self._control.stopped:
            if not self._left:
                if not self._later:
                    return None
                if self._again:
                    self._control.rest(POLL_SECONDS)
                self._left, self._later, self._again = self._later, deque(), True
                continue
            turn = self._left.popleft()
            owner = self._take(turn)
            yield from self._tell_refused(turn)
            if owner is None:
                self._again = False
                return turn
            self._later.append(turn)
            yield from self._tell_owner(turn, owner)
        return None

    def _take(self, turn: Turn) -> LockOwner | None:
        try:
            with saving():
                turn.there = self._is_there(turn)
                return None if turn.there else turn.work.take()
        except Exception as error:  # noqa: BLE001 - told where it is predicted, as any other
            turn.problem = error
            return None

    def _tell_owner(self, turn: Turn, owner: LockOwner) -> Iterator[Event]:
        waits = self._again or (not self._left and len(self._later) == 1)
        key = (turn.stem, owner.token, waits)
        if key in self._told or (not owner.process and not waits):
            return
        self._told.add(key)
        what = "waiting for it" if waits else "going on with the others"
        yield Notice(f"{turn.image.name} is being predicted by {owner}; {what}.")

    def _tell_refused(self, turn: Turn) -> Iterator[Event]:
        if not turn.work.refused or self._refused:
            return
        self._refused = turn.work.refused
        yield Notice(
            f"The file system of {turn.work.path.parent} does not support locks "
            f"({self._refused}), so notes in hidden folders are used instead; a program killed "
            "on another computer is noticed after half a minute."
        )
