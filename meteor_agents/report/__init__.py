"""A run as one page of HTML that needs nothing else: no network, no file beside it."""

from meteor_agents.report.page import TRACES, chart_library, write_report

__all__ = ["TRACES", "chart_library", "write_report"]
