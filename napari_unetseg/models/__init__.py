"""Networks, their weights and their files."""
