"""Contrast and sizes of text, and whether everything fits, in light and dark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from napari.settings import get_settings
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QApplication, QLabel, QPushButton, QScrollArea

from napari_unetseg.core.labels import COLORS
from napari_unetseg.gui.state.contrast import LINES, TEXT, mixed, ratio, readable
from napari_unetseg.gui.widgets.style_sheet import ACTION, ACTION_HOVER, stylesheet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from window_parts import Window

pytestmark = pytest.mark.gui

THEMES = ("dark", "light")


def rule(sheet: str, selector: str, name: str) -> str:
    """The value of a property in a style sheet."""
    body = re.search(re.escape(selector) + r"[^{]*{([^}]*)}", sheet)
    assert body is not None, selector
    value = re.search(rf"(?:^|[;\s]){name}:\s*([^;]*);", body[1])
    assert value is not None, (selector, name)
    return value[1].split()[-1]


def test_contrast_is_that_of_wcag() -> None:
    assert ratio("#000000", "#ffffff") == pytest.approx(21)
    assert ratio("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert ratio("#fff", "#123456") == ratio("#123456", "#ffffff")
    assert mixed("#ff0000", "#0000ff", 0.0) == "#0000ff"
    assert readable("#f0e442", "#000000") == "#f0e442"
    assert ratio(readable("#f0e442", "#ffffff"), "#ffffff") >= TEXT


@pytest.mark.parametrize("name", THEMES)
def test_all_text_stands_out(name: str) -> None:
    theme, sheet = get_theme(name), stylesheet(name)
    text, back, line = (getattr(theme, n).as_hex() for n in ("text", "background", "foreground"))
    primary = theme.primary.as_hex()
    dim = rule(sheet, 'QLabel[role="hint"]', "color")
    off = rule(sheet, "QPushButton:disabled", "color")
    for behind in (back, line):  # the status line and the chosen brush lie on the foreground
        assert ratio(text, behind) >= TEXT
        assert ratio(dim, behind) >= TEXT
    assert ratio(text, primary) >= TEXT
    assert ratio(off, primary) >= TEXT
    assert rule(sheet, 'QPushButton[role="primary"]', "background") == ACTION
    assert ratio("#ffffff", ACTION) >= TEXT
    assert ratio("#ffffff", ACTION_HOVER) >= TEXT
    ring = rule(sheet, "QPushButton:focus", "border")
    for behind in (back, line, primary):
        assert ratio(ring, behind) >= LINES
    assert ratio(rule(sheet, 'QPushButton[role="primary"]:focus', "border"), back) >= LINES
    for color in COLORS:
        assert ratio(readable(color, back, least=LINES), back) >= LINES


def test_no_size_of_text_is_fixed() -> None:
    for name in THEMES:
        sizes = re.findall(r"font-size:\s*([^;]*);", stylesheet(name))
        assert set(sizes) == {get_theme(name).font_size}


@pytest.fixture
def font_size() -> Iterator[None]:
    appearance = get_settings().appearance
    before = appearance.font_size
    yield
    appearance.font_size = before


@pytest.mark.parametrize("points", [9, 14])
def test_nothing_is_cut_off_on_a_small_screen(
    painted: Window, font_size: None, points: int
) -> None:
    get_settings().appearance.font_size = points
    painted.viewer.window.resize(1366, 768)
    dock = painted.dock
    dock.advanced.fold.expand(animate=False)
    painted.dock.result.refresh()
    for _ in range(30):
        QApplication.processEvents()
    scroll = dock.findChild(QScrollArea)
    inner = scroll.widget()
    assert inner.width() <= scroll.viewport().width()
    assert scroll.verticalScrollBar().maximum() > 0
    cut = []
    for widget in dock.findChildren(QLabel) + dock.findChildren(QPushButton):
        if not widget.isVisible() or not widget.text():
            continue
        wanted = widget.minimumSizeHint() if isinstance(widget, QPushButton) else None
        if wanted is not None:
            fits = widget.width() >= wanted.width() and widget.height() >= wanted.height()
        elif widget.wordWrap():
            fits = widget.height() >= widget.heightForWidth(widget.width())
        else:
            fits = widget.width() >= widget.minimumSizeHint().width()
        right = widget.mapTo(dock, widget.rect().topRight()).x()
        if not fits or right > dock.width():
            cut.append((widget.text(), widget.size(), right))
    assert not cut
    sizes = {w.font().pointSize() for w in dock.findChildren(QLabel) if w.isVisible()}
    assert sizes <= {points, points + 1}
