"""The weights of a model in this process: replaced by a checkpoint's, or holding no memory while a trainer needs it."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from meteor_agents.backends.weight_state import WeightState
from meteor_agents.errors import ModelError


class ModelWeights:
    """The parameters of `module`, which are those of `version` and were read from `folder`.

    With `folder` None they can be replaced, but they always hold their memory: there is nowhere to read them again from.
    """

    def __init__(self, module: Any, version: str, folder: Path | None) -> None:
        self.version = version
        self._module: Any = module
        self._source = WeightState.of(folder) if folder is not None else None
        self._absent: list[tuple[torch.nn.Parameter, torch.Size]] = []
        """Parameters that hold no memory now, and their shapes."""

    def replace(self, folder: Path, version: str) -> None:
        """Take the weights of `folder`. Raises `ModelError` and keeps the old ones when that is not possible."""
        self.take_memory_back()
        state = WeightState.of(folder)
        copy_weights(self._module, folder)
        self.version, self._source = version, state

    def free_memory(self) -> None:
        """Hold no memory until `take_memory_back`."""
        if self._source is not None and not self._absent:
            parameters = list(self._module.parameters())
            self._absent = [(parameter, parameter.shape) for parameter in parameters]
            _resize([(parameter, torch.Size([0])) for parameter in parameters])
            gc.collect()

    def take_memory_back(self) -> None:
        """Read the weights again if they hold no memory.

        Raises `ModelError` when their folder is gone or its files have changed; the next call tries again.
        """
        if self._absent and self._source is not None:
            if changed := self._source.changes():
                raise ModelError(
                    f"the weights {self.version} cannot be read again: {changed}. Put the files back as they were, or "
                    "start a new run with the changed ones"
                )
            _resize(self._absent)
            copy_weights(self._module, self._source.folder)
            self._absent = []

    def forget(self) -> None:
        """Let go of the model, so that its memory can be freed. Nothing else works afterwards."""
        self._module, self._source, self._absent = None, None, []


def _resize(parameters: Sequence[tuple[torch.nn.Parameter, torch.Size]]) -> None:
    """Give each parameter new memory of this shape, with any content. Tied parameters stay one."""
    with torch.inference_mode(False):
        for parameter, shape in parameters:
            parameter.data = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)


def copy_weights(module: Any, folder: Path) -> None:
    """Copy the safetensors of `folder` into `module`. Everything is checked before the first weight is touched.

    Tied weights may be stored once or under each of their names. Raises `ModelError` when a file cannot be read or when
    names or shapes are not those of `module`.
    """
    own: dict[str, torch.Tensor] = module.state_dict()
    with ExitStack() as opened:
        stored = _open_weights(folder, opened)
        _check_weights(own, {name: shard.get_slice(name).get_shape() for name, shard in stored.items()}, folder)
        with torch.no_grad():
            for name, shard in stored.items():
                own[name].copy_(shard.get_tensor(name))


def _open_weights(folder: Path, opened: ExitStack) -> dict[str, Any]:
    """The open file that holds each weight, by the weight's name."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        stored: dict[str, Any] = {}
        for name in sorted(names):
            shard = opened.enter_context(safe_open(folder / name, framework="pt"))
            stored.update(dict.fromkeys(shard.keys(), shard))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as unreadable:
        raise ModelError(f"no weights can be read from {folder}: {unreadable}") from unreadable
    return stored


def _check_weights(own: dict[str, torch.Tensor], shapes: dict[str, list[int]], folder: Path) -> None:
    stored_places = {own[name].data_ptr() for name in shapes if name in own}
    missing = [name for name, weight in own.items() if weight.data_ptr() not in stored_places]
    unknown = [name for name in shapes if name not in own]
    unlike = [name for name, shape in shapes.items() if name in own and list(own[name].shape) != shape]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes of", unlike)):
        if names:
            raise ModelError(f"{folder} does not hold this model: it {what} {some_names(names)}")


def some_names(names: Iterable[str]) -> str:
    """The first three names, and how many more there are.

    >>> some_names(["d", "b", "c", "a"])
    'a, b, c and 1 more'
    """
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
