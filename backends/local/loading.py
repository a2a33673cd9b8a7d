"""From a model's name or folder to a model in memory. Only safetensors are read, and no code of the folder is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from meteor_agents.backends.local.catalog import how_to_fetch, is_hub_name, resolve
from meteor_agents.backends.local.chat_template import end_of_turn_id
from meteor_agents.backends.local.decoding.loaded_model import LoadedModel, thought_marks
from meteor_agents.backends.local.hardware import pick_device, pick_dtype
from meteor_agents.backends.local.weights import some_names
from meteor_agents.errors import SettingsError

BATCHED_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose cache can be packed again while it is in use."""


def load_model(model: str | Path, device: str, dtype: str, quantization: Mapping[str, Any] | None) -> LoadedModel:
    """Read a model for inference and put it on `device`.

    `model` is a folder, a name that `meteor models fetch` knows, or a name of the Hugging Face hub that was fetched.
    `quantization` is what transformers takes as `quantization_config`. Raises `SettingsError` when there is no such model,
    or none that can be decoded here.
    """
    source = _source(model)
    target = pick_device(device)
    tokenizer, module, info = _read(model, source, target, dtype, quantization)
    if info["missing_keys"]:
        raise SettingsError(_no_model(model, f"its files lack the weights {some_names(info['missing_keys'])}"))
    if tokenizer.chat_template is None:
        raise SettingsError(_no_model(model, "its tokenizer has no chat template; use an instruction-tuned model"))
    config = module.config.get_text_config()
    unlike = set(getattr(config, "layer_types", None) or ()) - BATCHED_LAYERS
    if unlike:
        raise SettingsError(
            f"{model} has layers of a kind that the transformers backend does not support ({some_names(unlike)}); "
            "serve it with SGLang and use `backend: sglang`"
        )
    ends = frozenset({end_of_turn_id(tokenizer), *_as_list(module.generation_config.eos_token_id)})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    # The checkpoint's own suggestions for sampling are dropped: the caller's SamplingParams decide everything.
    module.generation_config = transformers.GenerationConfig(eos_token_id=sorted(ends), pad_token_id=pad)
    if not quantization:
        module.to(target)
    module.eval().requires_grad_(False)
    if (head := module.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(_in_one_piece)
    folder = Path(source) if Path(source).is_dir() and not quantization else None
    context = int(config.max_position_embeddings)
    return LoadedModel(module, tokenizer, ends, pad, context, folder, thought_marks(tokenizer))


def _source(model: str | Path) -> str:
    if Path(model).is_dir():
        return str(model)
    if (found := resolve(str(model)) or _in_hub_cache(str(model))) is not None:
        return str(found)
    if (command := how_to_fetch(str(model))) and not Path(model).parent.is_dir():
        raise SettingsError(f"the model {str(model)!r} is not here; fetch it: {command}")
    raise SettingsError(_no_model(model, "there is no such folder"))


def _in_hub_cache(name: str) -> Path | None:
    """The folder of a model that another program has left in the hub's own cache; nothing is downloaded."""
    if not is_hub_name(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _read(
    model: str | Path, source: str, target: torch.device, dtype: str, quantization: Mapping[str, Any] | None
) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer, model, and what transformers says about the loading."""
    safe: dict[str, Any] = {"trust_remote_code": False}
    # A model that is quantised while it is loaded has to be loaded where it stays.
    packed = {"quantization_config": dict(quantization), "device_map": {"": target}} if quantization else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=pick_dtype(dtype, target), use_safetensors=True, output_loading_info=True, **safe, **packed
        )
    except ImportError as absent:
        raise SettingsError(f"{model}: its quantization needs a package that is not installed: {absent}") from absent
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as unreadable:
        raise SettingsError(_no_model(model, str(unreadable).split("\n", 1)[0])) from unreadable
    module, info = loaded
    return tokenizer, module, info


def _no_model(model: str | Path, why: str) -> str:
    return (
        f"no model under {str(model)!r}: {why}. Name a folder with config.json, *.safetensors and a tokenizer, "
        "or run `meteor models fetch smollm2-135m` and set `model: smollm2-135m`"
    )


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids


def _in_one_piece(_head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A contiguous copy of the hidden states that go into the output head: the last column, a slice.

    With a strided slice, torch's matrix product copies the whole head once for each row (bfloat16 on a CPU): 3.6 GB for 64
    rows of a 135M model, and most of a prefill's time.
    """
    return tuple(states.contiguous() for states in given)
