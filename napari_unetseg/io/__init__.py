"""Reading of images and labels, writing of masks, projects; no PyTorch, no napari, no Qt."""
