"""Sentences about invalid values of options."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from napari_unetseg.core.labels import LabelKind

NUMBERS = {
    "int_parsing": "a whole number, such as 500",
    "int_from_float": "a whole number, such as 500",
    "float_parsing": "a number, such as 0.5",
}
"""What a value of pydantic's error types should have been."""


def why_not_a_number(option: str, error: ValidationError) -> str:
    """Say that an option needs a number; empty for other errors."""
    first = error.errors()[0]
    needed = NUMBERS.get(first["type"])
    return f"{option} needs {needed}, not {first['input']}." if needed else ""


def describe_bad_parameter(error: Any) -> str:
    """Describe an error of Typer in a sentence; empty if Typer has shown the help instead."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        option = str(error.param.opts[0])
        if cause.errors()[0]["input"] == LabelKind.STROKES:
            return (
                f"{option}: strokes do not cover the image; give a full mask ('full') or "
                "'instances'."
            )
        if text := why_not_a_number(option, cause):
            return text
    return str(error.format_message()).replace("Value error, ", "")
