"""Short prompts for the domain `units`."""
