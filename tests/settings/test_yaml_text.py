"""YAML of settings: what is wrong in it is one clear error, in bounded time."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.assembly.config_file import read_config, read_yaml
from meteor_agents.errors import SettingsError
from meteor_agents.settings.yaml_text import MAX_CHARACTERS, parse_yaml


def refused(text: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse_yaml(text, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\ndomain: b\nname: c\n", "line 3, column 1: the key 'name' is given twice, first in line 1"),
        ("refine: {init: base, init: previous}", "line 1, column 22: the key 'init' is given twice"),
        ("student:\n  backend: x\n  model: m\n  'backend': y\n", "the key 'backend' is given twice, first in line 2"),
        ("a:\n\tb: 1\n", "found character '\\t' that cannot start any token; indent with spaces"),
        ("a: [1\nb: 2", "line 2"),
        ("a: *nothing", "undefined alias"),
        ("--- a\n--- b\n", "expected a single document"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: \x07", "special characters are not allowed"),
        ("? [a]\n: b", "unhashable key"),
        ("a: " + "9" * 5000, "a number, date or tagged value in it is not valid"),
        ("a: 2024-99-99", "a number, date or tagged value in it is not valid"),
        ("a: !!int ''", "a number, date or tagged value in it is not valid"),
        ("a: !!bool maybe", "a number, date or tagged value in it is not valid"),
        ("a: !!timestamp today", "a number, date or tagged value in it is not valid"),
        ("[" * 5000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("a: &a [*a]", "nested more than 50 levels deep"),
        ("a: " + "x" * MAX_CHARACTERS, "is too long for settings"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_wrong_is_said_with_its_line(text: str, complaint: str) -> None:
    assert complaint in refused(text)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lists = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))
    maps = "\n".join(f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]" for n in range(1, 12))
    began = time.monotonic()
    assert "holds more than 20,000 values, aliases (*name) spelled out" in refused(f"a0: &a0 [x, y]\n{lists}")
    with suppress(SettingsError):  # PyYAML 6.0 lets merge keys multiply, and is refused; later ones do not
        assert parse_yaml(f"m0: &m0 {{x: 1, y: 2}}\n{maps}", "x")["m11"] == {"x": 1, "y": 2}
    assert time.monotonic() - began < 5


def test_anchors_and_merge_keys_are_read_as_ever() -> None:
    text = "base: &base {backend: openai, model: m}\nteacher: &t {<<: *base, model: big}\njudge: {<<: *t, backend: x}\n"
    assert parse_yaml(text, "x") == yaml.safe_load(text)
    assert parse_yaml(text, "x")["judge"] == {"backend": "x", "model": "big"}


@given(st.text() | st.text(alphabet=" \n\t-:?[]{}&*!|>'\"#%@`,<~ab0129.eE+_"))
def test_no_text_raises_anything_but_a_settings_error(text: str) -> None:
    try:
        parse_yaml(text, "x")
    except SettingsError:
        return


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc :-\n'\"é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc ", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "x") == value


@pytest.mark.parametrize("piece", ["[", "- ", "a: ", "{a: ", "? ", "'", "&a ", "!", "a\n", "- - ", "\t", "*a,"])
def test_the_longest_text_is_read_or_refused_in_bounded_time(piece: str) -> None:
    began = time.monotonic()
    with suppress(SettingsError):
        parse_yaml(piece * (MAX_CHARACTERS // len(piece)), "x")
    assert time.monotonic() - began < 30


VALID = """\
name: run
domain: sums
questions: {path: q.jsonl}
student: {backend: x}
teacher: {backend: x}
judge: {verifier: exact}
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_not_part_of_the_settings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.yaml").write_text(VALID, encoding=encoding)
    assert read_config(str(tmp_path / "x.yaml")).name == "run"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty; it must hold settings as key: value"),
        (b"# nothing yet\n", "is empty"),
        (b"- a\n- b\n", "must hold settings as key: value, found a list"),
        (b"hello\n", "found a text"),
        (b"3\n", "found a single value"),
        (b"name: run\ndomain: caf\xe9\n", "line 2: is not UTF-8 text (byte 0xe9); save the file as UTF-8."),
        ("name: run".encode("utf-16")[:-1], "is not readable as UTF-16"),
        (b"name: run\x00", "special characters are not allowed"),
        (VALID.replace("sums", '"half \\ud83d"').encode(), "domain: holds NUL or half a surrogate pair"),
        (VALID.replace("q.jsonl", '"q\\0.jsonl"').encode(), "questions.path: holds NUL or half a surrogate pair"),
        (VALID.replace("sums", '{"a\\0": b}').encode(), "domain.a\\x00: holds NUL"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SettingsError) as error:
        read_config(str(tmp_path / "x.yaml"))
    assert complaint in str(error.value)
    assert str(tmp_path / "x.yaml") in str(error.value)


@given(content=st.binary(max_size=200))
def test_no_file_raises_anything_but_a_settings_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        read_config(str(path))


def test_a_folder_and_a_name_with_nul_are_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"is a folder without meteor\.yaml; name the settings file in it"):
        read_config(str(tmp_path))
    with pytest.raises(SettingsError, match="no file can have this name"):
        read_config("a\0b")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("value", ["[1", "&a [*a]", "9" * 5000, "{a: 1, a: 2}"])
def test_a_value_of_set_is_read_as_strictly(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^--set refine\.iterations: "):
        read_config("quickstart", [f"refine.iterations={value}"])
