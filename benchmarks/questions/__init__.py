"""Scripts that make the question files of the presets `quickstart` and `units`."""
