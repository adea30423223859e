"""Annotations of images: strokes, corrections, accepted regions."""
