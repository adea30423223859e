"""Network architectures, weights and model files."""
