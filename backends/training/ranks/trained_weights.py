"""From the trained float32 masters to a checkpoint: what changed is added to the start checkpoint's weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor
from transformers import AutoModelForCausalLM

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.ranks.model import SupervisedLogits
from meteor_agents.backends.training.ranks.rank import Rank
from meteor_agents.weight_files import WRITTEN


def gather_masters(engine: Any, rank: Rank) -> dict[str, Tensor]:
    """Every trained parameter, whole and in float32 on the CPU, by its name in the model.

    All ranks take part, and only rank 0 gets the result. The optimizer's state is freed, so no step may follow.
    """
    _forget_moments(engine)
    masters = {}
    for name, parameter in engine.module.model.named_parameters():
        if parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            if rank.index == 0:
                masters[name] = whole.detach().to("cpu", copy=True)
    return masters


def _forget_moments(engine: Any) -> None:
    """Free the optimizer's running means to make room for the copies."""
    getattr(engine.optimizer, "optimizer", engine.optimizer).state.clear()
    for parameter in engine.module.parameters():
        mapping: Any = getattr(parameter, "_hp_mapping", None)  # ZeRO 1 and 2 hold slices of the state here too
        if mapping is not None and mapping.optim_fragment is not None:
            mapping.optim_fragment = {}
    give_back_freed_memory()


def change_of(
    model: SupervisedLogits, masters: dict[str, Tensor], began_as: torch.dtype | None
) -> Callable[[str, Tensor], Tensor | None]:
    """A function of a parameter's name and start value, which returns what training added to it in float32, or None.

    With adapters (arXiv 2106.09685) that is scaling x B A, else the master less its value at the start. Masters began as
    the start checkpoint rounded to `began_as`. With `began_as` None they were carried over from the update before, and
    the start checkpoint holds them rounded.
    """
    adapters = _adapters(model.model)

    def full(name: str, start: Tensor) -> Tensor | None:
        if name not in masters:
            return None
        return masters[name] - (start if began_as is None else start.to(began_as)).float()

    def low_rank(name: str, start: Tensor) -> Tensor | None:
        if name not in adapters:
            return None
        adapter = adapters[name]
        change = adapter.scaling * (masters[adapter.b] @ masters[adapter.a])
        return change.T if adapter.transposed else change

    return low_rank if adapters else full


class Adapter(NamedTuple):
    """The low-rank adapter of one weight [out, in]."""

    a: str
    """Name of the parameter A, [r, in]."""
    b: str
    """Name of the parameter B, [out, r]."""
    scaling: float
    transposed: bool
    """The weight is stored as [in, out]."""


def _adapters(model: Any) -> dict[str, Adapter]:
    """The adapters by the name that their weight has in the model without adapters; empty when there are none."""
    if not hasattr(model, "get_base_model"):
        return {}
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            key = f"base_model.model.{name}"
            found[f"{name}.weight"] = Adapter(
                a=f"{key}.lora_A.default.weight",
                b=f"{key}.lora_B.default.weight",
                scaling=module.scaling["default"],
                transposed=bool(getattr(module, "fan_in_fan_out", False)),
            )
    return found


def write_trained(start: Path, change: Callable[[str, Tensor], Tensor | None], folder: Path) -> None:
    """Write the model of `start`, in its own number format, with `change(name, parameter)` added to each parameter.

    Sums are taken in float32 and rounded once. Tokenizer, chat template and generation config are copied byte for byte,
    so that prompts stay the same.
    """
    model = AutoModelForCausalLM.from_pretrained(start, dtype="auto", use_safetensors=True, local_files_only=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            added = change(name, parameter)
            if added is not None:
                parameter.copy_(parameter.float() + added)
    model.save_pretrained(folder, safe_serialization=True)
    for file in start.iterdir():
        if file.suffix in _COPIED and file.name not in _NOT_COPIED and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)


_COPIED = (".json", ".jinja", ".model", ".tiktoken", ".txt")
_NOT_COPIED = {"config.json", WRITTEN}
