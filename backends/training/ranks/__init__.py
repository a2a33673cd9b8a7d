"""What runs inside the trainer's ranks: the other side of the process boundary."""
