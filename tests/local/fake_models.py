"""Small real GGUF files, and wheels that carry them in parts."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

from meteor_agents.backends.local.catalog import KnownModel, Part

WORDS = ["!", "a", "b", "c", "Ġ", "ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


def write_gguf(file: Path) -> Path:
    """A random Qwen2 of one layer, in Q4_K (as Q8_0 where gguf cannot quantise), Q6_K and F32, with its own head."""
    import gguf
    import numpy as np

    made = gguf.GGUFWriter(file, "qwen2")
    made.add_block_count(1)
    made.add_context_length(64)
    made.add_embedding_length(256)
    made.add_feed_forward_length(256)
    made.add_head_count(4)
    made.add_head_count_kv(2)
    made.add_rope_freq_base(10000.0)
    made.add_layer_norm_rms_eps(1e-6)
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("qwen2")
    made.add_token_list(WORDS)
    made.add_token_types([1] * 6 + [3] * 3)
    made.add_token_merges(["a b"])
    made.add_bos_token_id(6)
    made.add_eos_token_id(8)
    made.add_pad_token_id(6)
    made.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    shapes = {"attn_q": (256, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256),
              "ffn_gate": (256, 256), "ffn_up": (256, 256), "ffn_down": (256, 256)}  # fmt: skip
    for name, shape in {**{f"blk.0.{n}.weight": s for n, s in shapes.items()}, "token_embd.weight": (len(WORDS), 256),
                        "output.weight": (len(WORDS), 256)}.items():  # fmt: skip
        kind = BLOCKS.get(name, gguf.GGMLQuantizationType.Q8_0.name)
        values = random.normal(0, 0.1, shape).astype(np.float32)
        if kind == "Q8_0":
            made.add_tensor(name, gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0),
                            raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
        else:
            made.add_tensor(name, _blocks(random, shape, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, width in {"attn_norm.weight": 256, "ffn_norm.weight": 256, "attn_q.bias": 256, "attn_k.bias": 128,
                        "attn_v.bias": 128}.items():  # fmt: skip
        made.add_tensor(f"blk.0.{name}", random.normal(1, 0.1, width).astype(np.float32))
    made.add_tensor("output_norm.weight", np.ones(256, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return file


BLOCKS = {"blk.0.attn_q.weight": "Q4_K", "blk.0.ffn_down.weight": "Q6_K"}
"""Tensors that are written as random blocks of these formats, which gguf reads but does not write."""


def _blocks(random, shape: tuple[int, int], kind: str):  # type: ignore[no-untyped-def] # numpy is not typed here
    """Random blocks of 256 weights with small scales."""
    import numpy as np

    count = shape[0] * shape[1] // 256
    scale = np.full((count, 1), 0.001, np.float16).view(np.uint8)
    if kind == "Q4_K":
        packed = np.concatenate([scale, scale, random.integers(0, 256, (count, 140), np.uint8)], axis=1)
    else:
        packed = np.concatenate([random.integers(0, 256, (count, 208), np.uint8), scale], axis=1)
    return packed.reshape(shape[0], -1)


def shelve(gguf: bytes, shelf: Path, parts: int = 3) -> KnownModel:
    """Put the file on a shelf of wheels for `pip --find-links`. Returns the entry of the catalog for it."""
    shelf.mkdir(exist_ok=True)
    step = -(-len(gguf) // parts)
    for i in range(1, parts + 1):
        write_wheel(shelf, i, gguf[(i - 1) * step : i * step])
    return KnownModel(
        title="tiny Qwen2", licence="Apache-2.0", sha256=hashlib.sha256(gguf).hexdigest(), gguf_bytes=len(gguf),
        parts=tuple(Part(f"fake-model-part{i}==1.0", f"data/part{i:02}.bin") for i in range(1, parts + 1)),
        download_bytes=len(gguf), folder_bytes=len(gguf) * 4, dtype="bfloat16", bos=6, eos=8, pad=6,
    )  # fmt: skip


def write_wheel(shelf: Path, number: int, data: bytes) -> None:
    """A wheel with one data file, and code that may never run."""
    name = f"fake_model_part{number}"
    with zipfile.ZipFile(shelf / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('the package was imported')")
        wheel.writestr(f"{name}/data/part{number:02}.bin", data)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def too_large(known: KnownModel) -> KnownModel:
    """The same model, said to need more room than any disk has."""
    return dataclasses.replace(known, folder_bytes=10**18)
