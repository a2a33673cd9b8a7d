"""The settings of a run: one file a section, and the loading of a settings file.

`Settings` is a whole run, `ModelSettings` one model of it, and `load_settings` reads them from parsed YAML. These three
names are for users of the package.
"""

from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings

__all__ = ["ModelSettings", "Settings", "load_settings"]
