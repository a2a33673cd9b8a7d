"""The model of one training job, and the DeepSpeed engine around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from meteor_agents.backends.training.config import offloads_optimizer
from meteor_agents.backends.training.ranks.rank import Rank
from meteor_agents.training import LoraSettings, TrainingJob, TrainingSettings


class SupervisedLogits(nn.Module):
    """A causal language model that computes logits only at the positions that are asked for.

    A hook on the output layer picks those positions out of the hidden states. So the model's own forward (scaling,
    soft-capping, tied weights, ZeRO-3's gathering) stays as it is, and prompts are not multiplied with the vocabulary.
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
        """Logits [n, vocabulary] at `wanted` [n], indices into rows x length. The other tensors are [rows, length]."""
        self._wanted = wanted
        logits: Tensor = self.model(
            input_ids=ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).logits
        return logits[0]

    def _pick(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        return (hidden.flatten(0, 1)[self._wanted].unsqueeze(0), *others)


SHORT = 256
"""With rows of at most this many tokens, a CPU is faster without fused attention, whose backward pass is slow there."""


def load_model(job: TrainingJob, rank: Rank, longest: int) -> SupervisedLogits:
    """The start checkpoint in the rank's number format, ready to train, with adapters when the settings ask for them.

    `longest` is the number of tokens of the job's longest row.
    """
    model = AutoModelForCausalLM.from_pretrained(
        job.start.path,
        dtype=rank.dtype,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="eager" if longest <= SHORT and not rank.has_accelerator else None,
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


def open_engine(model: SupervisedLogits, config: dict[str, Any], settings: TrainingSettings, rank: Rank) -> Any:
    """DeepSpeed's engine around the model, with AdamW (arXiv 1711.05101). Norms and biases have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for all_parameters, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        for parameters in portions(all_parameters)
    ]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=trained, optimizer=_optimizer(groups, config, settings), config=config
    )
    torch.manual_seed(settings.seed + rank.index)  # from here on only dropout draws
    return engine


@contextmanager
def frozen(engine: Any) -> Iterator[None]:
    """Run the body without gradient and without dropout."""
    engine.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        engine.train()


PORTION = 1 << 25
"""Numbers in one group of parameters, or a few more: DeepSpeed copies the gradients of one group at a time to float32."""


def portions(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive groups of about `PORTION` numbers each."""
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
