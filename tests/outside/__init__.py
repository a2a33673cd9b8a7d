"""Whole runs of the command line against servers and files that are not as they should be."""
