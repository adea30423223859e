"""Help dialog: workflow, shortcuts, label values, versions."""

from __future__ import annotations

from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING

from qtpy import API_NAME, QT_VERSION
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QDialog, QFrame, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from napari_unetseg.core.versions import installed_versions
from napari_unetseg.gui.shortcuts.commands import COMMANDS
from napari_unetseg.gui.widgets.style_sheet import stylesheet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari.components import ViewerModel

STEPS = (
    "Open an image, or a sample under <i>File ▸ Open Sample ▸ U-Net segmentation</i>.",
    "<b>New layer</b>: an empty layer to paint on, and the first brush.",
    "Draw a few strokes on each structure, then some with the <b>background</b> brush, between "
    "touching objects too. Unpainted pixels are never taken for background.",
    "<b>Train</b>. The mask appears while the network learns; paint on meanwhile.",
    "Where the mask is wrong, paint or erase <b>on the mask</b>, or add strokes: with "
    "<b>Live</b> they are learned at once, otherwise press <b>Train</b> again. Predictions "
    "never change your corrections.",
    "<b>Objects</b>, if each cell or nucleus is to have a number of its own: merge, split, delete, "
    "accept or paint a few. They are finished, and the network learns where objects end.",
    "<b>Accept plane</b> where the mask is right: it is used for training and not changed "
    "any more.",
    "<b>Check quality</b>: correct the mask at ten random places, and Dice is estimated for all "
    "open images.",
    "<b>Predict</b> the image or the whole stack, tidy up, export. Earlier models are under "
    "<b>Model</b>.",
)
NUMBERS = (
    ("", "strokes", "full mask", "objects", "prediction"),
    ("0", "not labelled", "background", "background", "background"),
    ("1 to 254", "structures", "structures", "one object each", "structures"),
    ("255", "background brush", "alone with 0: structure 1", "an object", "–"),
)


class HelpDialog(QDialog):
    """A modeless dialog.

    Parameters
    ----------
    keys
        Keys of each command, by its id.
    window
        The parent window.
    """

    def __init__(
        self, viewer: ViewerModel, keys: Mapping[str, str], window: QWidget | None
    ) -> None:
        super().__init__(window)
        self.setWindowTitle("U-Net segmentation: help")
        self._viewer = viewer
        self._inner = QWidget()
        self._fill(QVBoxLayout(self._inner))
        self._scroll = _scrolled(self._inner)
        close = QPushButton("&Close")
        close.clicked.connect(self.close)
        outer = QVBoxLayout(self)
        outer.addWidget(self._scroll, 1)
        outer.addWidget(close)
        self.show_keys(keys)
        self._viewer.events.theme.connect(self._on_theme)
        self._on_theme()

    def _fill(self, column: QVBoxLayout) -> None:
        column.setSpacing(6)
        steps = "".join(f"<li style='margin-bottom:4px'>{step}</li>" for step in STEPS)
        column.addWidget(_heading("What to press, in this order"))
        column.addWidget(_text(f"<ol style='margin-left:-20px'>{steps}</ol>"))
        column.addWidget(_heading("Shortcuts"))
        column.addWidget(
            _text(
                "They work in the whole window, but not while you type in a field. Change them "
                "under <i>File ▸ Preferences ▸ Plugin Preferences ▸ U-Net segmentation</i>; "
                "napari's own are under <i>Shortcuts</i> there."
            )
        )
        self.keys = _text("")
        column.addWidget(self.keys)
        column.addWidget(_heading("What the numbers mean"))
        column.addWidget(_text(_table(NUMBERS)))
        column.addWidget(_heading("Versions, for a bug report"))
        self.versions = _text(_versions())
        self.versions.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        column.addWidget(self.versions)
        column.addStretch(1)

    def show_keys(self, keys: Mapping[str, str]) -> None:
        """Set the keys of all commands, by command id."""
        rows = [(c.title, keys[c.id] or "none") for c in COMMANDS]
        self.keys.setText(_table((("command", "key"), *rows)))

    def sizeHint(self) -> QSize:
        """Wide enough for its lines, and no taller than a small screen allows."""
        self.ensurePolished()
        line = self.fontMetrics()
        bar = self._scroll.verticalScrollBar()
        beside = (bar.sizeHint().width() if bar is not None else 0) + 40
        width = max(80 * line.averageCharWidth(), self._inner.minimumSizeHint().width() + beside)
        height = 40 * line.lineSpacing()
        screen = self.screen()
        if screen is not None:
            height = min(height, round(0.85 * screen.availableGeometry().height()))
        return QSize(width, height)

    def release(self) -> None:
        """Disconnect from all events before the dialog is deleted."""
        self._viewer.events.theme.disconnect(self._on_theme)
        self.close()

    def _on_theme(self, _: object = None) -> None:
        with suppress(RuntimeError):  # Qt may have deleted it with its window
            self.setStyleSheet(stylesheet(self._viewer.theme))


def _heading(text: str) -> QLabel:
    label = QLabel(text)
    label.setProperty("role", "heading")
    return label


def _text(html: str) -> QLabel:
    label = QLabel(html)
    label.setTextFormat(Qt.TextFormat.RichText)
    label.setWordWrap(True)
    return label


def _versions() -> str:
    """A line for each version, as printed by `unetseg --version`, and the Qt binding."""
    lines = [
        f"{name} {number}" + f", in use with Qt {QT_VERSION}" * (name == API_NAME)
        for name, number in installed_versions().items()
    ]
    return "<br>".join(lines)


def _scrolled(inner: QWidget) -> QScrollArea:
    scroll = QScrollArea()
    scroll.setWidget(inner)
    scroll.setWidgetResizable(True)
    scroll.setFrameShape(QFrame.Shape.NoFrame)
    scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return scroll


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as HTML; the first row is the heading."""
    tags = ("th", *("td" for _ in rows[1:]))
    lines = (
        "".join(f"<{tag} align='left'>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    )
    each = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table cellspacing='0' cellpadding='4'>{each}</table>"
