"""Long jobs that a window or a script runs, here or on another computer."""
