"""What stands between an agent and a model: memory, budget, limits, retries, the health of a server."""
