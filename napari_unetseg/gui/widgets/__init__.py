"""Small widgets that show the session and announce what the user wants."""
