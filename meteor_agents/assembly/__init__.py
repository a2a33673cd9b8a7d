"""From settings to objects. The only room of the core that imports backends."""
