"""Learns and predicts: NumPy and PyTorch; no napari, no Qt, no files but the model's."""
