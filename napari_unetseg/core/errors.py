"""Errors whose text is one sentence that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the text says what to do."""


class ChoiceError(UserError):
    """A file is sound, but what is wanted of it has to be said; the text names the choices."""


class ModelFileError(UserError):
    """A model file that is refused, or a model that does not fit the image."""


class TrainingError(UserError):
    """Training could not begin or go on; what was learned before is kept."""


class LostError(UserError):
    """Another computer went away while it worked for this one."""
