"""Prediction of images of any size, chunk by chunk, into files; it can be killed and goes on.

Neither napari nor Qt; it stands on io and core.
"""
