"""What DeepSpeed is told: its configuration (a preset or a user's file, completed by the settings) and its hostfile."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from meteor_agents.errors import SettingsError
from meteor_agents.training import TrainingSettings

LOOPBACK = "127.0.0.1"
"""The ranks of a single machine meet at this address, and listen on no other."""

_OURS = ("optimizer", "scheduler")
_HOST_LINE = re.compile(r"(?P<host>[A-Za-z0-9][\w.:-]*)\s+slots=(?P<slots>[1-9]\d*)")


def check_training(settings: TrainingSettings) -> None:
    """Raise `SettingsError` for whatever is known to fail before anything is started."""
    load_config(settings.config)
    if settings.hostfile is not None:
        slots = sum(read_hostfile(settings.hostfile).values())
        if settings.processes != slots:
            raise SettingsError(
                f"training.processes is {settings.processes}, but {settings.hostfile} has {slots} slots; make them equal"
            )
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise SettingsError(
            "training.tensorboard: the package tensorboard is not installed; pip install tensorboard, or leave it out"
        )


def load_config(name: str) -> dict[str, Any]:
    """The preset of that name or the JSON file at that path. Raises `SettingsError` when it cannot be used."""
    presets = files("meteor_agents.configs.deepspeed")
    preset = presets / f"{name}.json"
    if preset.is_file():
        text = preset.read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        known = ", ".join(sorted(file.name[:-5] for file in presets.iterdir() if file.name.endswith(".json")))
        raise SettingsError(f"training.config {name!r} is neither a DeepSpeed preset ({known}) nor a JSON file")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as malformed:
        raise SettingsError(f"training.config {name}: {malformed}") from malformed
    if not isinstance(config, dict):
        raise SettingsError(f"training.config {name}: expected one JSON object")
    if (config.get("zero_optimization") or {}).get("stage") not in (1, 2, 3):
        raise SettingsError(
            f"training.config {name}: zero_optimization.stage must be 1, 2 or 3, "
            "the only ones that keep the float32 weights which are saved"
        )
    for key in _OURS:
        if key in config:
            raise SettingsError(
                f"training.config {name} sets {key!r}, which the training settings decide (learning_rate, schedule, "
                "warmup_ratio, weight_decay); remove it from the file"
            )
    return config


def job_config(
    config: dict[str, Any],
    *,
    dtype: str,
    micro_batch_size: int,
    accumulation: int,
    ranks: int,
    max_grad_norm: float,
    accelerator: bool,
) -> dict[str, Any]:
    """`config` completed by what the settings decide. A value of "auto" is removed, so DeepSpeed's default applies.

    DeepSpeed keeps float32 masters of weights in half formats. With bfloat16, gradients are also summed in float32 when
    there is more than one to sum (several micro-batches or ranks), and are not searched for overflow one by one, because
    their norm shows it. Without an accelerator the offloading sections are removed: there is nothing to offload from.
    """
    filled = _without_auto(config)
    filled |= {
        "train_batch_size": micro_batch_size * accumulation * ranks,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
    }
    filled["bf16"] = {"check_grad_overflow": False} | filled.get("bf16", {}) | {"enabled": dtype == "bfloat16"}
    filled["fp16"] = filled.get("fp16", {}) | {"enabled": dtype == "float16"}
    if dtype == "bfloat16" and accumulation * ranks > 1:
        filled.setdefault("data_types", {"grad_accum_dtype": "fp32"})
    zero = filled.get("zero_optimization", {})
    if ranks == 1 and zero.get("stage") in (1, 2):  # ranks exchange nothing, so no large buffers
        zero |= {"contiguous_gradients": False, "reduce_bucket_size": 5_000_000, "allgather_bucket_size": 5_000_000}
    if not accelerator:
        for key in ("offload_optimizer", "offload_param"):
            zero.pop(key, None)
    return filled


def offloads_optimizer(config: dict[str, Any]) -> bool:
    """Whether a DeepSpeed configuration keeps the optimizer's state outside the accelerator."""
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return bool(offload.get("device", "none") != "none")


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value != "auto"
    }


def read_hostfile(path: Path) -> dict[str, int]:
    """The machines of a training and the ranks of each, in the file's order; the first is this machine.

    The file is in DeepSpeed's format, with `host slots=N` a line and `#` before comments. Raises `SettingsError` that names
    the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"training.hostfile {path} cannot be read: {error.strerror}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _HOST_LINE.fullmatch(text)
        if found is None:
            raise SettingsError(f"training.hostfile {path}, line {number}: expected `host slots=N`, found {text!r}")
        if found["host"] in hosts:
            raise SettingsError(f"training.hostfile {path}, line {number}: {found['host']} is named twice")
        hosts[found["host"]] = int(found["slots"])
    if not hosts:
        raise SettingsError(f"training.hostfile {path} names no host")
    return hosts
