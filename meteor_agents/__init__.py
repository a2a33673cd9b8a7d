"""METEOR: evolve a small student model with a teacher and a judge (arXiv 2411.11933).

This package is the method, without a vendor. Model servers and trainers live in `meteor_agents.backends` and are imported
on demand; `meteor_agents.cli` is the only place that turns settings into objects.
"""

__version__ = "0.1.0"
