"""The optimizer's state, carried from one update to the next in a folder beside the checkpoint.

The files hold whole tensors by parameter name, about `PORTION` numbers of each kind a file. So the next update may have
another number of ranks or another ZeRO stage, and no more than a portion is copied at a time. A checkpoint in a half
format also keeps its float32 masters here, because an update is often smaller than the spacing of such a format.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from meteor_agents.backends.training.ranks.model import portions
from meteor_agents.backends.training.ranks.rank import Rank
from meteor_agents.errors import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's running means of the gradient and of its square (arXiv 1412.6980), as torch names them."""
MASTER = "master"
"""The name of float32 weights among the stored tensors: `master/<parameter>`."""


def save_optimizer(engine: Any, rank: Rank, folder: Path, *, masters: bool) -> None:
    """Write the state to a new folder; with `masters`, the float32 weights too. All ranks take part, rank 0 writes."""
    if rank.index == 0:
        folder.mkdir()
    _link_state(engine)
    steps = str(_steps(engine))
    for number, names in enumerate(_portions(engine), start=1):
        tensors = {}
        for name, parameter in names.items():
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = _host(safe_get_full_optimizer_state(parameter, moment), rank)
            if masters:
                tensors[f"{MASTER}/{name}"] = _host(safe_get_full_fp32_param(parameter), rank)
        if rank.index == 0:
            save_file(tensors, folder / f"{number:04d}.safetensors", metadata={"steps": steps})


def _host(whole: Tensor, rank: Rank) -> Tensor:
    return whole.detach().contiguous().cpu() if rank.index == 0 else whole


def load_optimizer(engine: Any, rank: Rank, folder: Path) -> bool:
    """Put a stored state into the engine before its first step. Returns whether float32 masters were stored too.

    Raises `TrainingError` when the folder belongs to another model.
    """
    trained = dict(_trained(engine))
    missing = set(trained)
    masters = False
    _make_state(engine)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118  # a file, not a mapping
                what, _, name = key.partition("/")
                if name not in trained:
                    raise TrainingError(f"{file}: the model has no trained parameter {name}")
                _set(trained[name], stored.get_tensor(key), None if what == MASTER else what, rank)
                missing.discard(name)
                masters |= what == MASTER
            _set_steps(engine, float(stored.metadata()["steps"]))
    if missing:
        raise TrainingError(f"{folder}: the optimizer state of {min(missing)} is missing")
    return masters


def _set(parameter: Any, value: Tensor, moment: str | None, rank: Rank) -> None:
    if hasattr(parameter, "ds_id"):  # ZeRO-3: each rank has an equal part, the last one padded
        part = parameter.ds_tensor.numel()
        flat = torch.zeros(part * rank.count)
        flat[: value.numel()] = value.flatten()
        mine = flat[part * rank.index : part * (rank.index + 1)].to(rank.device)
        if moment is None:
            safe_set_local_fp32_param(parameter, mine)
        else:
            safe_set_local_optimizer_state(parameter, mine, moment)
    elif moment is None:
        safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)
    else:
        safe_set_full_optimizer_state(parameter, value, moment)


def _make_state(engine: Any) -> None:
    """Make the state that the first step would make, for DeepSpeed's flat part of each group."""
    zero, adam = engine.optimizer, engine.optimizer.optimizer
    in_tensors = isinstance(adam, torch.optim.AdamW)
    for flat in _flat_masters(zero):
        adam.state[flat] = {
            "step": torch.zeros((), device=flat.device) if in_tensors else 0,
            **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
        }
    _link_state(engine)


def _link_state(engine: Any) -> None:
    """Let ZeRO 1 and 2 find the state by parameter: by themselves they look once, when only the first group has any."""
    zero = engine.optimizer
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _steps(engine: Any) -> float:
    adam = engine.optimizer.optimizer
    return max(float(state["step"]) for state in adam.state.values())


def _set_steps(engine: Any, steps: float) -> None:
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = torch.full_like(state["step"], steps) if torch.is_tensor(state["step"]) else int(steps)


def _flat_masters(zero: Any) -> list[Tensor]:
    found = getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups
    return list(found)


def _portions(engine: Any) -> Iterator[dict[str, Any]]:
    trained = dict(_trained(engine))
    names = {id(parameter): name for name, parameter in trained.items()}
    for portion in portions(list(trained.values())):
        yield {names[id(parameter)]: parameter for parameter in portion}


def _trained(engine: Any) -> Iterator[tuple[str, Any]]:
    return ((name, p) for name, p in engine.module.model.named_parameters() if p.requires_grad)
