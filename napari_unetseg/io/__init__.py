"""Files to stacks and masks, and back. Imports neither torch nor napari nor Qt."""
