"""A run as one HTML page that loads nothing from the network and needs no other file."""

from meteor_agents.report.about import About, read_about
from meteor_agents.report.page import TRACES, chart_library, write_report

__all__ = ["TRACES", "About", "chart_library", "read_about", "write_report"]
