"""How replies are graded and compared, and how far the figures can be trusted."""
