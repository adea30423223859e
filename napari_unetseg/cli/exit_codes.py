"""Exit codes, and the errors that carry them."""

from __future__ import annotations

FAILED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130


class WrongUsageError(Exception):
    """An invalid value of an option; the text is one sentence."""


class SomeFailedError(Exception):
    """Some images failed; the text says which and why."""
