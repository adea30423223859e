"""Installed versions for bug reports, without importing the packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {
    "napari": ("napari",),
    "torch": ("torch",),
    "tifffile": ("tifffile",),
    "zarr": ("zarr",),
    "PyQt6": ("PyQt6",),
    "PySide6": ("PySide6", "PySide6_Essentials"),  # the second alone is enough for napari
    "PyQt5": ("PyQt5",),
}


def installed_versions() -> dict[str, str]:
    """Name and version of the program, Python, main libraries and Qt bindings.

    Returns
    -------
    dict
        In that order, without what is not installed.
    """
    found = {name: next(filter(None, map(_version, each)), "") for name, each in PACKAGES.items()}
    first = {"unetseg": PROGRAM_VERSION, "Python": platform.python_version()}
    return first | {name: text for name, text in found.items() if text}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


PROGRAM_VERSION = _version("napari-unetseg") or "0.0.0"
"""Zero in a source tree that is not installed."""
