"""Settings, events, labels, image stacks, metrics and files; no PyTorch, no napari, no Qt."""
