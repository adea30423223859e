"""Prediction, uncertainty and where to annotate next."""
