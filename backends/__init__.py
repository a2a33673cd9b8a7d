"""Vendors: each file implements one protocol of `meteor_agents` and is imported on demand."""
