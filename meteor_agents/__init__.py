"""METEOR: evolve a small student model with a teacher and a judge (arXiv 2411.11933).

This package is the method, without a vendor. Model servers and trainers live in `meteor_agents.backends` and are imported
on demand; `meteor_agents.assembly` turns settings into objects.
"""

from meteor_agents.version import VERSION as __version__

__all__ = ["__version__"]
