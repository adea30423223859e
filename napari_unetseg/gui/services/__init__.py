"""What several features use: jobs, images, annotations, masks, undo; no Qt."""
