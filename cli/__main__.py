"""`python -m meteor_agents.cli` is `meteor`."""

from meteor_agents.cli import main

main()
