"""Vendors: each file implements one protocol of `meteor_agents` and is imported on demand."""

import os

# Before torch is imported: its waiting threads soon sleep, since endless spinning slows every busy neighbour.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
