"""What the user can do, one class a file; no Qt, and none knows another."""
