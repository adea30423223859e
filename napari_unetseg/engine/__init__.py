"""Prediction of images of any size, chunk by chunk, into files; it can be killed and goes on.

Beside it what a window has done for it, here or on another computer (`tasks`, `remote`). Neither
napari nor Qt; it stands on io and core.
"""
