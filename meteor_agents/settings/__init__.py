"""A run's settings: one file a section, and the loading of a settings file."""

from meteor_agents.settings.settings import ModelSettings, Settings, load_settings

__all__ = ["ModelSettings", "Settings", "load_settings"]
