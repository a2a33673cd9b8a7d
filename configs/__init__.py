"""The run files that ship with the package, by name."""
