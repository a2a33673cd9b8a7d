"""One file per command; those that read a run directory are in `results`."""
