"""The quickstart: questions on a small library database, and all that a first run needs."""
