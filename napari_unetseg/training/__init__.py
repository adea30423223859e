"""Network training on annotated images."""
