"""Services shared by features: jobs, images, annotations, masks, undo; no Qt."""
