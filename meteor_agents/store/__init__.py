"""The run directory and its SQLite store."""
