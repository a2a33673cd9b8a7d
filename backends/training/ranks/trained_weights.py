"""What a job has changed: the float32 masters of what was trained, as an addition to the start checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor

from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.training.ranks.model import SupervisedLogits
from meteor_agents.backends.training.ranks.place import Place


def gather_masters(engine: Any, place: Place) -> dict[str, Tensor]:
    """Every trained parameter in float32, whole, by its name in the model; all ranks take part, rank 0 gets them."""
    _forget_moments(engine)
    masters = {}
    for name, parameter in engine.module.model.named_parameters():
        if parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            if place.rank == 0:
                masters[name] = whole.detach().to("cpu", copy=True)
    return masters


def _forget_moments(engine: Any) -> None:
    """No step follows: what the optimizer remembers of the gradients makes room for the copies."""
    getattr(engine.optimizer, "optimizer", engine.optimizer).state.clear()
    for parameter in engine.module.parameters():
        mapping: Any = getattr(parameter, "_hp_mapping", None)  # ZeRO 1 and 2 hold slices of the state here too
        if mapping is not None and mapping.optim_fragment is not None:
            mapping.optim_fragment = {}
    give_back_freed_memory()


def change_of(
    model: SupervisedLogits, masters: dict[str, Tensor], began_as: torch.dtype | None
) -> Callable[[str, Tensor], Tensor | None]:
    """What training added to one parameter of the start checkpoint, in float32; None: nothing.

    The masters began at the start, rounded to the format `began_as`; None: they are the weights, and the start is but
    those rounded.
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
    a: str
    """Name of the parameter A, [r, in]."""
    b: str
    """Name of the parameter B, [out, r]."""
    scaling: float
    transposed: bool


def _adapters(model: Any) -> dict[str, Adapter]:
    """Low-rank adapters by the name that their weight has in the model without adapters."""
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
