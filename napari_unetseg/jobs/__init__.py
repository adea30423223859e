"""Long jobs of a window or script, local or remote."""
