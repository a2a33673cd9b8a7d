"""The model of one training job, and the DeepSpeed engine around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from meteor_agents.backends.training.config import offloads_optimizer
from meteor_agents.backends.training.ranks.place import Place
from meteor_agents.training import LoraSettings, TrainingJob, TrainingSettings


class SupervisedLogits(nn.Module):
    """A causal language model that computes logits only where they are asked for.

    A hook on the output layer picks the wanted positions out of the hidden states, so the model's own forward (scaling,
    soft-capping, tied weights, ZeRO-3's gathering) stays as it is, and the vocabulary is not multiplied with prompts.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._wanted: Tensor | None = None
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        plain.get_output_embeddings().register_forward_pre_hook(self._pick)

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None, wanted: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """ids, mask, positions [rows, length], wanted [n] indices into rows x length -> logits [n, vocabulary]."""
        self._wanted = wanted
        logits: Tensor = self.model(
            input_ids=ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).logits
        return logits[0]

    def _pick(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        return (hidden.flatten(0, 1)[self._wanted].unsqueeze(0), *others)


SHORT = 256
"""Tokens up to which a CPU is faster without the fused attention, whose backward pass there is slow for short rows."""


def load_model(job: TrainingJob, place: Place, longest: int) -> SupervisedLogits:
    model = AutoModelForCausalLM.from_pretrained(
        job.start.path,
        dtype=place.dtype,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="eager" if longest <= SHORT and not place.accelerator else None,
    )
    if job.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if job.settings.lora is not None:
        model = _with_adapters(model, job.settings.lora)
    model.train()
    return SupervisedLogits(model)


def _with_adapters(model: Any, lora: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=2 * lora.r if lora.alpha is None else lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=False,
    )


def open_engine(model: SupervisedLogits, config: dict[str, Any], settings: TrainingSettings, place: Place) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]  # norms and biases do not decay
    groups = [
        {"params": parameters, "weight_decay": decay}
        for all_parameters, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        for parameters in portions(all_parameters)
    ]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=trained, optimizer=_optimizer(groups, config, settings), config=config
    )
    torch.manual_seed(settings.seed + place.rank)  # from here on only dropout draws
    return engine


PORTION = 1 << 25
"""Parameters of one group, or a little more: DeepSpeed copies a group's gradients whole to float32, one at a time."""


def portions(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of about `PORTION` parameters."""
    portion: list[Tensor] = []
    for parameter in parameters:
        portion.append(parameter)
        if sum(map(_size, portion)) >= PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", 0) or parameter.numel())  # ZeRO-3 empties what other ranks hold


def _optimizer(groups: list[dict[str, Any]], config: dict[str, Any], settings: TrainingSettings) -> Any:
    if offloads_optimizer(config):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=settings.learning_rate, adamw_mode=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
