"""A session on disk: its database, and where projects are."""
