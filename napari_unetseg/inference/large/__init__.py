"""Prediction of images of any size into files, chunk by chunk."""
