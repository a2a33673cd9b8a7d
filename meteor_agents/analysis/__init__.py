"""Looking at a run: its cost before, its status during, its replay and ablations after."""
