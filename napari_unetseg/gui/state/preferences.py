"""User preferences (Preferences ▸ U-Net segmentation)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

PLUGIN = "napari-unetseg"


@dataclass(frozen=True, slots=True)
class Preferences:
    """Device, CPU threads (None selects automatically) and the default folder for models."""

    device: str = "auto"
    threads: int | None = None
    models_dir: Path = Path(platformdirs.user_data_dir(PLUGIN, appauthor=False)) / "models"


def read_preferences() -> Preferences:
    """The preferences; defaults if the plugin is not registered, as in unit tests."""
    settings = _settings()
    if settings is None:
        return Preferences()
    folder = settings.storage.models_dir
    return Preferences(
        settings.computing.device,
        settings.computing.threads or None,
        Path(folder).expanduser() if folder else Preferences().models_dir,
    )


def read_shortcuts() -> dict[str, str]:
    """Keys by command id, in Qt's notation; empty if the plugin is not registered."""
    settings = _settings()
    return {} if settings is None else settings.shortcuts.model_dump()


def watch_shortcuts(changed: Callable[[Any], None]) -> Callable[[], None]:
    """Call ``changed`` whenever a shortcut is changed; returns a function that disconnects."""
    settings = _settings()
    if settings is None:
        return lambda: None
    events = settings.shortcuts.events
    events.connect(changed)
    return lambda: events.disconnect(changed)


def _settings() -> Any:
    """The plugin's settings; None if it is not registered."""
    from napari.settings import get_plugin_settings

    try:
        return get_plugin_settings(PLUGIN)
    except (KeyError, ValueError):
        return None
