"""Style sheet of the dock from napari's theme colours and font size."""

from __future__ import annotations

from napari.settings import get_settings
from napari.utils.theme import get_theme

from napari_unetseg.gui.state.contrast import LINES, TEXT, mixed, readable

ACTION, ACTION_HOVER, DONE = "#0072B2", "#005F99", "#009E73"
"""Colours that carry white text, or have a meaning, in a dark and in a light theme."""


def font_size() -> int:
    """Napari's font size in points, which themes do not contain."""
    return int(get_settings().appearance.font_size)


def stylesheet(theme_name: str) -> str:
    """Styles that are missing in napari's own style sheet, in the colours of a theme."""
    theme = get_theme(theme_name)
    text, back, line = (getattr(theme, n).as_hex() for n in ("text", "background", "foreground"))
    primary = theme.primary.as_hex()
    dim = readable(mixed(text, back, 0.68), back, line, least=TEXT)
    off = readable(mixed(text, primary, 0.68), primary, least=TEXT)
    ring = readable(theme.current.as_hex(), back, primary, line, least=LINES)
    stop = readable(theme.error.as_hex(), back, least=LINES)
    return f"""
    QLabel[role="heading"] {{ font-weight: bold; font-size: {font_size()}pt; padding-top: 2px; }}
    QLabel[role="hint"] {{ color: {dim}; }}
    QLabel[role="result"], QLabel[role="value"], QLabel[role="refusal"] {{ font-weight: bold; }}
    QPushButton {{ padding: 3px 7px; min-height: 16px; border: 2px solid transparent; }}
    QPushButton[role="primary"] {{
        background: {ACTION}; color: white; font-weight: bold;
        padding: 5px; border-radius: 3px; }}
    QPushButton[role="primary"]:hover {{ background: {ACTION_HOVER}; }}
    QPushButton[role="stop"] {{
        background: transparent; border: 2px solid {stop}; font-weight: bold;
        padding: 5px; border-radius: 3px; }}
    QPushButton[role="fold"] {{ text-align: left; background: transparent; padding: 2px; }}
    QPushButton[role="segment"] {{ border-radius: 0; }}
    QPushButton[role="segment"]:checked {{ background: {ACTION}; color: white; }}
    QToolButton {{
        background: {primary}; padding: 3px 7px; min-height: 16px; border: 2px solid transparent;
        border-radius: 2px; }}
    QToolButton:focus {{ border: 2px solid {ring}; }}
    QToolButton:disabled {{ color: {off}; }}
    QPushButton:disabled {{ color: {off}; }}
    QComboBox, QAbstractSpinBox, QLineEdit {{ border: 2px solid transparent; }}
    QCheckBox, QRadioButton {{ border: 2px solid transparent; border-radius: 3px; }}
    QPushButton:focus, QPushButton[role]:focus, QComboBox:focus, QAbstractSpinBox:focus,
    QLineEdit:focus, QCheckBox:focus, QRadioButton:focus, QTreeWidget:focus,
    QFrame[role="brush"]:focus {{ border: 2px solid {ring}; }}
    QPushButton[role="primary"]:focus {{ border: 2px solid {text}; }}
    QFrame[role="brush"] {{
        border: 2px solid transparent; border-radius: 3px; }}
    QFrame[role="brush"]:hover {{ border-color: {line}; }}
    QFrame[role="brush"][chosen="true"] {{
        background: {line}; border-color: {theme.current.as_hex()}; }}
    QFrame[role="brush"][chosen="true"]:focus {{ border-color: {text}; }}
    QFrame[role="brush"] QLineEdit {{
        background: transparent; border: 1px solid transparent; padding: 0; }}
    QFrame[role="brush"] QLineEdit:focus {{ border: 1px solid {ring}; }}
    QFrame[role="brush"] QLabel {{ background: transparent; }}
    QFrame[role="rule"] {{ background: {line}; max-height: 1px; border: none; }}
    QFrame[role="status"], QFrame[role="welcome"] {{ background: {line}; border-radius: 3px; }}
    QFrame[role="status"] QLabel, QFrame[role="welcome"] QLabel {{ background: transparent; }}
    QFrame[role="welcome"] {{ border-left: 4px solid {ACTION}; }}
    QFrame[role="status"][level="warning"] {{ border-left: 4px solid {theme.warning.as_hex()}; }}
    QFrame[role="status"][level="error"] {{ border-left: 4px solid {theme.error.as_hex()}; }}
    QFrame[role="status"][level="done"] {{ border-left: 4px solid {DONE}; }}
    QFrame[role="status"][level="info"] {{ border-left: 4px solid {theme.current.as_hex()}; }}
    """
