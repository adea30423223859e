"""Errors shown in the status line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level

if TYPE_CHECKING:
    from napari_unetseg.gui.state.session import Session


@contextmanager
def refusing(session: Session) -> Iterator[None]:
    """Show a `UserError` in the status line."""
    try:
        yield
    except (UserError, ValidationError) as error:
        session.say(messages.explain(error, "This"), Level.WARNING)


def complain(session: Session, error: BaseException, doing: str) -> None:
    """Report an error, as a warning if the user can fix it; ``doing`` is as for `explain`."""
    level = Level.WARNING if isinstance(error, UserError) else Level.ERROR
    session.say(messages.explain(error, doing), level)
