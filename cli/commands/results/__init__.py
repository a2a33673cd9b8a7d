"""Commands that read a run directory: status, traces, replay, report and export."""
