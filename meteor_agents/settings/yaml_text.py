"""YAML of settings, read strictly: a key may not be given twice, and nothing in it can take endless time or memory."""

from __future__ import annotations

from typing import Any

import yaml

from meteor_agents.errors import SettingsError
from meteor_agents.safe_text import printable

MAX_CHARACTERS = 300_000
"""The longest text that is read. Settings have a few thousand characters; this many take a few seconds."""
MAX_VALUES = 20_000
"""Values in one text, those that aliases (`*name`) repeat counted each time."""
MAX_DEPTH = 50


def parse_yaml(text: str, source: str) -> Any:
    """What `text` holds. `source` names it in messages. Raises `SettingsError` with the line where there is one."""
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{source}: is too long for settings ({len(text):,} characters; {MAX_CHARACTERS:,} at most)")
    try:
        content = yaml.load(text, _StrictLoader)  # a subclass of SafeLoader
    except RecursionError:
        raise SettingsError(f"{source}: not readable as YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}: not readable as YAML: {_sentence(error)}") from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML lets these through for values that their form or tag promises but that do not exist, such as 2024-99-99
        raise SettingsError(
            f"{source}: not readable as YAML: a number, date or tagged value in it is not valid; quote what is meant as text"
        ) from error
    _check_size(content, source)
    return content


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, and merge keys (`<<`) that multiply."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if (name := (key.tag, key.value)) in lines:
                    problem = f"the key {key.value!r} is given twice, first in line {lines[name]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                lines[name] = line
        return node

    def flatten_mapping(self, node: Any) -> None:
        merged = 0
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for inner in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(inner, yaml.MappingNode):
                        self.flatten_mapping(inner)
                        merged += len(inner.value)
        if merged > MAX_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "its merge keys (<<) repeat too much", node.start_mark)
        super().flatten_mapping(node)


def _sentence(error: yaml.YAMLError) -> str:
    """What is wrong, where, and for tabs what to do."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return printable(" ".join(str(error).split()))
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = ", ".join(filter(None, (error.context, error.problem)))
    hint = "; indent with spaces, not with tabs" if "'\\t'" in what else ""
    return printable(f"{where}{' '.join(what.split())}{hint}")


def _check_size(content: Any, source: str) -> None:
    """Aliases make a short text stand for an endless value, which would be spelled out later."""
    count, level = 0, [content]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict | list | tuple | set):
                count += len(value)
                if count > MAX_VALUES:
                    raise SettingsError(f"{source}: holds more than {MAX_VALUES:,} values, aliases (*name) spelled out")
                inner += value.values() if isinstance(value, dict) else value
        if not inner:
            return
        level = inner
    raise SettingsError(f"{source}: is nested more than {MAX_DEPTH} levels deep, aliases (*name) spelled out")
