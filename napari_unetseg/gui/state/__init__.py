"""State of a window: evented values and messages; no Qt, no napari."""
