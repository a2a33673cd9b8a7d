"""Rows as batches of tokens, and their losses."""
