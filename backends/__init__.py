"""Vendors: each file implements one protocol of `meteor_agents` and is imported on demand."""

import os

GOMP_SPINCOUNT = "30000"
"""Torch's waiting threads soon sleep: endless spinning slows every busy neighbour."""

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # read when torch is first imported, which is later
