"""Prediction, uncertainty, active learning, evaluation."""
