"""How tokens are chosen and replies are made, side by side in one batch. Nothing here knows of threads or of settings."""
