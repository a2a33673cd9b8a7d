"""The DeepSpeed trainer: this side of the process boundary."""
