"""User-facing features, independent of each other; no Qt."""
