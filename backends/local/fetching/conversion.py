"""From a GGUF file to a Hugging Face folder, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meteor_agents.backends.local.catalog import KnownModel
from meteor_agents.backends.local.quiet import silence_libraries

ROWS = 4096
"""Rows of a tensor that are widened to float32 at once."""
SHARD = "1GB"
"""The most bytes of weights in one file, and so in memory."""


def convert(gguf: Path, known: KnownModel, folder: Path, on_tensor: Callable[[int, int], None]) -> None:
    """Write the model to the new folder `folder`: safetensors, configs, tokenizer and chat template.

    `on_tensor` is called with the number of tensors written so far and of all. The file must have been verified. Memory:
    the weights of one file (`SHARD`), and one piece of a tensor in float32.
    """
    import torch
    import transformers

    silence_libraries()
    folder.mkdir()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    config = _plain(transformers.AutoConfig.from_pretrained(**place), known)
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    config.architectures = [type(skeleton).__name__]
    _write_weights(_named_weights(gguf, skeleton), folder, on_tensor)
    config.save_pretrained(folder)
    ends = {"bos_token_id": known.bos, "eos_token_id": known.eos, "pad_token_id": known.pad}
    transformers.GenerationConfig(**ends).save_pretrained(folder)
    _write_tokenizer(transformers.AutoTokenizer.from_pretrained(**place), gguf, folder)


def _plain(config: Any, known: KnownModel) -> Any:
    """The config without its origin, and with the output head tied to the embeddings.

    All known models were trained with a tied head. Their GGUF files may hold it twice, in two number formats.
    """
    stated = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        stated.pop(key, None)
    tokens = {"bos_token_id": known.bos, "eos_token_id": known.eos, "pad_token_id": known.pad}
    return type(config).from_dict({**stated, **tokens, "dtype": known.dtype, "tie_word_embeddings": True})


def _named_weights(gguf: Path, skeleton: Any) -> dict[str, Weight]:
    """The weights of the model by their names in transformers, in the order in which it holds them."""
    from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map

    reader = GGUFReader(gguf)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = skeleton.config
    field = reader.get_field("general.architecture")
    kind = field.contents() if field else None
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == kind)  # of a known model: it is there
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    # The head is stored in more bits than the embeddings, so it is nearer to the matrix that both of them were.
    shared = "output.weight" if "output.weight" in stored else "token_embd.weight"
    head = skeleton.get_output_embeddings().weight
    weights = {}
    for name, shape in skeleton.state_dict(keep_vars=True).items():
        module, _, kind_of_weight = name.rpartition(".")
        if shape is head:
            if module == "lm_head":
                continue
            weights[name] = Weight(stored[shared], shape.shape, shape.dtype)
            continue
        rotated = kind == "llama" and {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
        heads = next((getattr(config, of) for end, of in (rotated or {}).items() if module.endswith(end)), None)
        weights[name] = Weight(stored[f"{names.get_name(module)}.{kind_of_weight}"], shape.shape, shape.dtype, heads)
    return weights


class Weight:
    """One tensor of a GGUF file that is not read yet."""

    def __init__(self, stored: Any, shape: Any, dtype: Any, heads: int | None = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self._stored = stored
        self._heads = heads
        """For queries and keys of a Llama, whose rows llama.cpp keeps in another order: the number of heads."""

    def read(self) -> Any:
        """The tensor in `dtype`, widened a few rows at a time."""
        import torch
        from gguf.quants import dequantize

        packed, kind = self._stored.data, self._stored.tensor_type
        whole = torch.empty(tuple(self.shape), dtype=self.dtype)
        if len(self.shape) == 1:
            return whole.copy_(torch.from_numpy(dequantize(packed, kind).copy()))
        for start in range(0, len(packed), ROWS):
            rows = dequantize(packed[start : start + ROWS], kind)
            whole[start : start + ROWS] = torch.from_numpy(rows)
        return whole if self._heads is None else _rows_in_order(whole, self._heads)


def _rows_in_order(weight: Any, heads: int) -> Any:
    """Rows of each head from llama.cpp's order, where pairs that are rotated together are neighbours, to transformers'."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _write_weights(weights: Mapping[str, Weight], folder: Path, on_tensor: Callable[[int, int], None]) -> None:
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    shapes = {name: torch.empty(weight.shape, dtype=weight.dtype, device="meta") for name, weight in weights.items()}
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=SHARD)
    done = 0
    for file, names in plan.filename_to_tensors.items():
        tensors = {}
        for name in names:
            tensors[name] = weights[name].read()
            done += 1
            on_tensor(done, len(weights))
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _write_tokenizer(tokenizer: Any, gguf: Path, folder: Path) -> None:
    """Write the tokenizer that transformers makes from the file; Qwen's also puts text into Unicode's normal form."""
    from gguf import GGUFReader
    from tokenizers import normalizers

    split = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if split is not None and split.contents() == "qwen2":
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.save_pretrained(folder)
