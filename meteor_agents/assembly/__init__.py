"""Settings to objects. The only room of the core that knows backends."""
