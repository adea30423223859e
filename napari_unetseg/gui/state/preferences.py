"""What the user set under Preferences ▸ U-Net segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import platformdirs

__all__ = ["Preferences", "read_preferences"]

PLUGIN = "napari-unetseg"


@dataclass(frozen=True, slots=True)
class Preferences:
    """Device, CPU threads (None chooses by itself) and the folder that models are saved in."""

    device: str = "auto"
    threads: int | None = None
    models_dir: Path = Path(platformdirs.user_data_dir(PLUGIN, appauthor=False)) / "models"


def read_preferences() -> Preferences:
    """The preferences; defaults where the plugin is not registered, as in a bare test."""
    from napari.settings import get_plugin_settings

    try:
        settings = get_plugin_settings(PLUGIN)
    except (KeyError, ValueError):
        return Preferences()
    folder = settings.storage.models_dir
    return Preferences(
        settings.computing.device,
        settings.computing.threads or None,
        Path(folder).expanduser() if folder else Preferences().models_dir,
    )
