"""Training of a network on annotations."""
