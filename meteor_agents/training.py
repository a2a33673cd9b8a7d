"""The seam to the trainer, and what it trains on: examples, preference pairs, checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from meteor_agents.events import Event
from meteor_agents.models import ChatMessage


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Value):
    """One supervised example: the very messages that inference renders, and the reply to learn."""

    kind: Literal["sft"] = "sft"
    id: str
    prompt: tuple[ChatMessage, ...]
    target: str


class ChatExample(_Value):
    """One supervised chat: every turn of the assistant is learned, and nothing else is."""

    kind: Literal["chat"] = "chat"
    id: str
    messages: tuple[ChatMessage, ...]
    """As inference would have them; the last is the assistant's."""

    @field_validator("messages")
    @classmethod
    def _ends_with_a_reply(cls, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's, and another must come before it")
        return messages


class PreferencePair(_Value):
    """Two replies to one prompt, of which `chosen` is preferred."""

    kind: Literal["pair"] = "pair"
    id: str
    prompt: tuple[ChatMessage, ...]
    chosen: str
    rejected: str


TrainingRow = Annotated[Example | ChatExample | PreferencePair, Field(discriminator="kind")]


class Checkpoint(_Value):
    """A complete Hugging Face folder (weights, config, generation config, tokenizer, chat template).

    `version` names the weights in every message they speak. It is derived from what made them, so equal versions mean
    equal weights.
    """

    version: str
    path: Path


def optimizer_beside(checkpoint: Path) -> Path:
    """The folder of the optimizer's state after that checkpoint's training, for those that keep it."""
    return checkpoint.with_name(f"{checkpoint.name}.optimizer")


class LoraSettings(_Value):
    """Low-rank adapters (arXiv 2106.09685), merged into the weights when the checkpoint is written."""

    r: int = Field(default=16, ge=1)
    alpha: int | None = Field(default=None, ge=1)
    """Scale numerator; 2 r when absent."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class TrainingSettings(_Value):
    """How one training job runs. Stages may override single fields."""

    backend: str = "deepspeed"
    config: str = "zero2"
    """A DeepSpeed preset of configs/deepspeed (zero1, zero2, zero3, zero2-offload, zero3-offload) or a JSON file
    (a path relative to the settings file)."""
    processes: int = Field(default=1, ge=1)
    """Ranks: GPUs, or CPU processes. All on this machine unless there is a hostfile, whose slots they then are."""
    hostfile: Path | None = None
    """Several machines, as DeepSpeed names them (`host slots=N`); this one comes first. See docs/scale-out.md."""
    learning_rate: float = Field(default=3e-5, gt=0)
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all ranks and accumulation steps."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass on one rank."""
    max_length: int = Field(default=512, ge=8)
    """Tokens; a longer row is left out, counted and reported."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the hardware multiplies it natively, else float32."""
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    optimizer_state: Literal["keep", "reset"] = "keep"
    """Whether an update of stage 2 goes on with what the optimizer knew after the one that it starts from (8 bytes a
    parameter beside the checkpoint, 12 if that is no float32 one). Adapters are made anew each time, and so is their
    optimizer."""

    packing: bool = False
    """Several supervised examples in a row of at most `max_length` tokens, none of which attends to another: no padding,
    for a price in attention. It pays where lengths differ much; similar ones are batched together anyway."""
    tensorboard: bool = False
    """Loss, learning rate and tokens/s of each step also as TensorBoard files, in checkpoints/tensorboard."""

    @property
    def carries_optimizer(self) -> bool:
        return self.optimizer_state == "keep" and self.lora is None


LossName = Literal["hinge", "dpo", "ipo", "simpo", "kto", "rdpo"]

LOSS_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "hinge": {"margin": 0.1},
    "dpo": {"beta": 0.1, "label_smoothing": 0.0},
    "ipo": {"beta": 0.5},
    "simpo": {"beta": 2.0, "margin": 1.0},
    "kto": {"beta": 0.1},
    "rdpo": {"beta": 0.1, "label_smoothing": 0.1},
}
"""The parameters that each loss has, with their defaults; `backends/losses.py` has the equations."""


class PairwiseLoss(_Value):
    """A loss on preference pairs. A parameter that is not given takes the loss's own default; one it lacks stays 0."""

    name: LossName = "hinge"
    margin: float = Field(default=0.0, ge=0)
    """How far the chosen reply must be ahead: hinge, per token; simpo, its gamma."""
    beta: float = Field(default=0.0, ge=0)
    """dpo, rdpo, kto: how dear it is to leave the starting weights; ipo: a goal of 1 / (2 beta) per token; simpo: scale."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """dpo, rdpo: the share of pairs taken to be the wrong way round."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the winner's own negative log-likelihood, added against forgetting."""
    length_desensitise: float = Field(default=1.0, ge=0, le=1)
    """Weight of the tokens by which a reply is longer than its counterpart (arXiv 2409.06411): 1 counts them whole."""

    @model_validator(mode="before")
    @classmethod
    def _own_parameters(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        name = given.get("name", "hinge")
        if not isinstance(name, str) or name not in LOSS_PARAMETERS:
            return given  # refused as a name
        own = LOSS_PARAMETERS[name]
        foreign = [key for key in ("margin", "beta", "label_smoothing") if given.get(key) and key not in own]
        if foreign:
            raise ValueError(f"the loss {name} has no {foreign[0]}; it has {', '.join(own)}")
        return {**own, **{key: value for key, value in given.items() if value is not None}}

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        for key in LOSS_PARAMETERS[self.name]:
            if getattr(self, key) == 0 and (self.name, key) != ("dpo", "label_smoothing"):
                raise ValueError(f"the loss {self.name} needs a {key} above 0")
        return self

    @property
    def needs_reference(self) -> bool:
        """The loss compares with the weights that training starts from."""
        return self.name in ("dpo", "ipo", "kto", "rdpo")


class TrainingJob(_Value):
    """Everything that decides the weights of the new checkpoint."""

    name: str
    """For people and for the folder's name, for example `refine-002`."""
    rows: tuple[TrainingRow, ...]
    """All examples and chats, or all preference pairs."""
    start: Checkpoint
    settings: TrainingSettings
    loss: PairwiseLoss | None = None
    """None: supervised fine-tuning on examples."""
    carries_optimizer: bool = False
    """Begin with the optimizer's state that lies beside the start checkpoint."""
    keeps_optimizer: bool = False
    """Leave the optimizer's state beside the new checkpoint. Decides nothing about its weights."""

    def version(self) -> str:
        """The new checkpoint's version: the name, and a hash of the data, the start and the settings."""
        return f"{self.name}-{self.hash()[:8]}"

    def hash(self) -> str:
        settings = {
            "hostfile",
            "optimizer_state",
            "tensorboard",
        }  # of the second, what matters is in `carries_optimizer`
        content = self.model_dump(
            mode="json", exclude={"start": {"path"}, "keeps_optimizer": True, "settings": settings}
        )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def data_hash(self) -> str:
        rows = [row.model_dump(mode="json") for row in self.rows]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


class TrainingReport(_Value):
    """What one finished job did."""

    loss: float | None
    """Mean loss over the last tenth of the steps."""
    steps: int
    tokens: int
    """Non-padding tokens seen, over all epochs and ranks."""
    seconds: float
    rows_used: int
    rows_too_long: int
    metrics: dict[str, Any] = Field(default_factory=dict)


class Trainer(Protocol):
    """Turns a job into a new checkpoint folder."""

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """Write the new checkpoint to `folder`, which does not exist yet, all or nothing.

        Raises `NothingToTrainError` when no row can be trained on, and otherwise `TrainingError` with the last lines of
        the trainer's log; `folder` then does not exist. Cancelling ends the trainer's processes.
        """
        ...

    async def aclose(self) -> None:
        """End what `train` has left running for the next job. May be called again."""
        ...
