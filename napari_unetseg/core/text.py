"""Wording of numbers in sentences."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """Say how many there are: ``1 image``, ``2 images``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
