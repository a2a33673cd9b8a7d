"""What a run will cost: its conversations rehearsed with stored and imagined replies, and counted."""
