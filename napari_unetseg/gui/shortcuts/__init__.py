"""Keyboard shortcuts of a window."""
