"""Small widgets that show the session and emit the user's intent."""
