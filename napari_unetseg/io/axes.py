"""Axis letters of files, and their order in a stack."""

from __future__ import annotations

from pathlib import Path

from napari_unetseg.core.errors import UserError


def letters_of(given: str | None, found: str, shape: tuple[int, ...], path: Path) -> str:
    """One letter for each axis: the given letters, or the file's with unknown axes named.

    Raises
    ------
    UserError
        The given letters do not fit the shape, or there are channels and colour samples.
    """
    if given is not None:
        letters = given.upper()
        if len(letters) != len(shape) or len(set(letters)) != len(letters):
            raise UserError(
                f"{path.name} has {len(shape)} axes of shape {shape}, which do not match "
                f"{given!r}; name each axis with one letter."
            )
        return letters
    named = set(found) - set("QI")
    spare = iter("PQUVWRH" if named & set("ZT") else "ZTPQUVWRH")
    free = [a for a in found if a in "QI"]
    fresh = [next(spare) for _ in free][::-1]
    letters = "".join(fresh.pop(0) if a in "QI" else a for a in found)
    if {"C", "S"} <= set(letters):
        raise UserError(
            f"{path.name} has channels and colour samples; name the axis C differently, such as "
            f"--axes {letters.replace('C', next(spare))}, or save it with channels only."
        )
    return letters


def arranged(letters: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Positions in the file of a stack's axes.

    Axes of length 1 are dropped except Y and X. Z, Y and X come last, so that a volume is ZYX;
    channels and samples stay before or after them as in the file.
    """
    last = letters.find("X")

    def rank(place: int) -> int:
        letter = letters[place]
        if letter in "CS":
            return 4 if place > last else 0
        return "ZYX".find(letter) + 1

    kept = (i for i in range(len(letters)) if shape[i] != 1 or letters[i] in "YX")
    return tuple(sorted(kept, key=rank))
