"""The stages of a run: each holds its conversations, and makes its updates."""
