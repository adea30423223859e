"""The napari plugin: the only folder that may import napari and Qt."""
