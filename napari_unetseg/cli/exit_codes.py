"""Exit codes of the command line, and the errors that carry them."""

from __future__ import annotations

FAILED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130


class WrongUsageError(Exception):
    """An option has a value that it cannot have; the text is one sentence."""


class SomeFailedError(Exception):
    """Some images failed and the others are done; the text says which and why."""
