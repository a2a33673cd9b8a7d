"""Everything that speaks to a vendor's library or server: chat models and the trainer, each imported when it is opened."""

import os

GOMP_SPINCOUNT = "30000"
"""How long torch's waiting threads spin before they sleep: spinning without end slows every busy neighbour."""

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # read when torch is first imported, which is later
