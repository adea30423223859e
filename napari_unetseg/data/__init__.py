"""Training datasets: annotated images and patches."""
