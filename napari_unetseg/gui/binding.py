"""Differences of the Qt bindings."""

from __future__ import annotations

import ctypes
import sys

from qtpy import API_NAME
from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon, QPixmap

MANY = 2**40
"""Number of extra references; each call loses one, so these last for years."""


def keep_constants_alive() -> None:
    """Keep PySide6 from deallocating None, True and False before Python 3.12; call it once.

    PySide6 6.12.0 is built as if these could not be deallocated, which they cannot from Python 3.12
    on: before, each method that returns nothing drops a reference to None, each signal one to True,
    and after some minutes Python aborts ("deallocating None"). More references than can be dropped
    make no difference where nothing is wrong.
    """
    if API_NAME != "PySide6" or sys.version_info >= (3, 12):
        return
    for constant in (None, True, False, NotImplemented):
        references = ctypes.c_ssize_t.from_address(id(constant))
        if 0 < references.value < MANY:
            references.value += MANY


def blank_icon() -> QIcon:
    """An empty icon; a null ``QIcon()`` is false in PySide6 and is treated as missing."""
    pixmap = QPixmap(1, 1)
    pixmap.fill(Qt.GlobalColor.transparent)
    return QIcon(pixmap)
