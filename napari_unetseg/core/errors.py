"""Errors whose text is one sentence that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix; the text says how."""


class ChoiceError(UserError):
    """An ambiguous file; the text names the choices."""


class ModelFileError(UserError):
    """A model file that is refused, or a model that does not fit the image."""


class TrainingError(UserError):
    """Training cannot start or continue; the last model is kept."""


class LostError(UserError):
    """The connection to a remote computer was lost."""
