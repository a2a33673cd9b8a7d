"""Questions and rows: reading, splitting, near-duplicates, and rows that users bring themselves."""
