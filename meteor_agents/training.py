"""The interface of a trainer: the rows and settings of a training job, checkpoints, losses, and the report."""

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
    """One supervised example: the messages that inference would render, and the reply to learn.

    Example:
        >>> prompt = (ChatMessage(role="user", content="What is 6 x 7?"),)
        >>> Example(id="q1", prompt=prompt, target="Answer: 42").kind
        'sft'
    """

    kind: Literal["sft"] = "sft"
    id: str
    prompt: tuple[ChatMessage, ...]
    target: str


class ChatExample(_Value):
    """One supervised chat. Every turn of the assistant is learned, and nothing else is."""

    kind: Literal["chat"] = "chat"
    id: str
    messages: tuple[ChatMessage, ...]
    """The messages as inference would render them; the last one is the assistant's."""

    @field_validator("messages")
    @classmethod
    def _ends_with_a_reply(cls, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's, and another must come before it")
        return messages


class PreferencePair(_Value):
    """Two replies to one prompt; `chosen` is preferred over `rejected`.

    Example:
        >>> prompt = (ChatMessage(role="user", content="What is 6 x 7?"),)
        >>> PreferencePair(id="q1", prompt=prompt, chosen="Answer: 42", rejected="Answer: 36").kind
        'pair'
    """

    kind: Literal["pair"] = "pair"
    id: str
    prompt: tuple[ChatMessage, ...]
    chosen: str
    rejected: str


class DistilledReply(_Value):
    """A reply of the student's own, and a prompt that says what is wrong with it.

    With `informed` as its prompt the student knows more than with `prompt`. At every token of `reply` it learns to predict
    after `prompt` what it predicts after `informed` (arXiv 2601.20802, 2601.19897).

    Example:
        >>> prompt = (ChatMessage(role="user", content="What is 6 x 7?"),)
        >>> informed = (ChatMessage(role="user", content="What is 6 x 7? You said 36, which is 6 x 6."),)
        >>> DistilledReply(id="q1", prompt=prompt, informed=informed, reply="Answer: 36").kind
        'distilled'
    """

    kind: Literal["distilled"] = "distilled"
    id: str
    prompt: tuple[ChatMessage, ...]
    informed: tuple[ChatMessage, ...]
    reply: str


TrainingRow = Annotated[Example | ChatExample | PreferencePair | DistilledReply, Field(discriminator="kind")]
"""Anything that can be trained on. `kind` distinguishes stored rows."""


class Checkpoint(_Value):
    """A complete Hugging Face folder: weights, config, generation config, tokenizer and chat template."""

    version: str
    """Names the weights in every message that they produced. It is derived from everything that decided the weights, so
    equal versions mean equal weights."""
    path: Path


def optimizer_beside(checkpoint: Path) -> Path:
    """The folder for the optimizer's state after the training of that checkpoint. Not every checkpoint has one."""
    return checkpoint.with_name(f"{checkpoint.name}.optimizer")


class LoraSettings(_Value):
    """Low-rank adapters (arXiv 2106.09685), merged into the weights when the checkpoint is written."""

    r: int = Field(default=16, ge=1)
    """The rank of the matrices A [r, in] and B [out, r]."""
    alpha: int | None = Field(default=None, ge=1)
    """The product B A is scaled by alpha / r. 2 r when absent."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get adapters, as PEFT takes them."""


class TrainingSettings(_Value):
    """How training runs. Stages may override single fields."""

    backend: str = "deepspeed"
    config: str = "zero2"
    """A DeepSpeed preset of configs/deepspeed (zero1, zero2, zero3, zero2-offload, zero3-offload) or a JSON file
    (a path relative to the settings file)."""
    processes: int = Field(default=1, ge=1)
    """The number of ranks: one for each GPU, or CPU processes. With a hostfile, the sum of its slots."""
    hostfile: Path | None = None
    """The machines of a training across several, in DeepSpeed's format (`host slots=N`), this one first. See
    docs/scale-out.md."""
    learning_rate: float = Field(default=3e-5, gt=0)
    """The peak, after the warm-up."""
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimizer step, over all ranks and accumulation steps."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Rows per forward pass on one rank."""
    max_length: int = Field(default=512, ge=8)
    """The longest row, in tokens. Longer ones are left out, and counted in the report."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """The share of all steps in which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: to near 0, or not at all."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to weight matrices, not to norms and biases."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on hardware that multiplies it natively, else float32."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    seed: int = 0
    optimizer_state: Literal["keep", "reset"] = "keep"
    """Whether an update of stage 2 begins with the optimizer's state of the update before. That takes 8 bytes a parameter
    beside the checkpoint, 12 if its weights are not float32. Adapters always begin with a fresh optimizer."""

    packing: bool = False
    """Put several supervised examples into a row of at most `max_length` tokens, without attention between them. That
    avoids padding and makes attention more expensive. It pays if lengths differ much; similar ones share a batch anyway.
    Updates that also train on preference pairs or distilled replies are not packed."""
    tensorboard: bool = False
    """Also write loss, learning rate and tokens/s of each step as TensorBoard files, to checkpoints/tensorboard."""

    @property
    def carries_optimizer(self) -> bool:
        """Whether an update begins with the optimizer's state of the one before."""
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
"""Loss -> its parameters with their defaults. The equations are in backends/training/ranks/batching/losses.py."""


class PairwiseLoss(_Value):
    """A loss on preference pairs.

    A parameter that is not given has the loss's own default. One that the loss does not have is 0, and refused otherwise.
    """

    name: LossName = "hinge"
    margin: float = Field(default=0.0, ge=0)
    """hinge: how far the chosen reply must be ahead, in log-likelihood per token. simpo: the paper's gamma."""
    beta: float = Field(default=0.0, ge=0)
    """dpo, rdpo, kto: how strongly the model is held to the starting weights. ipo: the target is 1 / (2 beta) per token.
    simpo: the scale of the difference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """dpo, rdpo: the assumed share of pairs with the wrong reply preferred."""
    nll: float = Field(default=0.0, ge=0)
    """The weight of the chosen reply's own negative log-likelihood per token, added so that it stays likely."""
    length_desensitise: float = Field(default=1.0, ge=0, le=1)
    """The weight of the tokens by which a reply is longer than the other one (arXiv 2409.06411). At 1 they count fully."""

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
        """Whether the loss compares with the weights that training starts from."""
        return self.name in ("dpo", "ipo", "kto", "rdpo")


Divergence = Literal["reverse", "forward", "jsd"]
"""How two distributions of the next token are compared. The equations are in backends/training/ranks/batching/losses.py."""


class SelfDistillation(_Value):
    """The loss on distilled replies: at each token, how far the student is from what it predicts when it is informed."""

    name: Literal["self_distill"] = "self_distill"
    divergence: Divergence = "reverse"


class TrainingJob(_Value):
    """Everything that decides the weights of the new checkpoint.

    Raises `ValueError` for preference pairs or distilled replies without their loss.
    """

    name: str
    """For people and for the folder's name, such as `refine-002`."""
    rows: tuple[TrainingRow, ...]
    """Examples and chats; beside or instead of them either preference pairs or distilled replies."""
    start: Checkpoint
    settings: TrainingSettings
    loss: PairwiseLoss | SelfDistillation | None = None
    """The loss on preference pairs or on distilled replies. Examples and chats are always learned by supervised
    fine-tuning."""
    carries_optimizer: bool = False
    """Begin with the optimizer's state beside the start checkpoint."""
    keeps_optimizer: bool = False
    """Leave the optimizer's state beside the new checkpoint. This does not change the weights."""

    @model_validator(mode="after")
    def _rows_have_their_loss(self) -> Self:
        needed = {"pair": PairwiseLoss, "distilled": SelfDistillation}
        for row in self.rows:
            if row.kind in needed and not isinstance(self.loss, needed[row.kind]):
                raise ValueError(f"row {row.id}: a row of kind {row.kind} needs {needed[row.kind].__name__} as the loss")
        return self

    def version(self) -> str:
        """The new checkpoint's version: the job's name and the first eight digits of `hash`."""
        return f"{self.name}-{self.hash()[:8]}"

    def hash(self) -> str:
        """SHA-256, in hexadecimal, of everything that decides the weights: rows, start version, settings and loss."""
        # What matters of `optimizer_state` is in `carries_optimizer`.
        settings = {"hostfile", "optimizer_state", "tensorboard"}
        content = self.model_dump(
            mode="json", exclude={"start": {"path"}, "keeps_optimizer": True, "settings": settings}
        )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def data_hash(self) -> str:
        """SHA-256, in hexadecimal, of the rows alone."""
        rows = [row.model_dump(mode="json") for row in self.rows]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


class TrainingReport(_Value):
    """What a finished job did."""

    loss: float | None
    """The mean loss over the last tenth of the steps."""
    steps: int
    tokens: int
    """Tokens without padding, over all epochs and ranks."""
    seconds: float
    rows_used: int
    rows_too_long: int
    metrics: dict[str, Any] = Field(default_factory=dict)
    """More figures, by name: seconds of each phase, tokens/s, peak memory in MiB, margins of preference pairs."""


class Trainer(Protocol):
    """Turns a job into a new checkpoint folder.

    Example, a trainer that learns nothing and so keeps the weights as they are:
        >>> import shutil
        >>> class Unchanged:
        ...     async def train(
        ...         self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]
        ...     ) -> TrainingReport:
        ...         unfinished = folder.with_name(f"{folder.name}.unfinished")
        ...         shutil.copytree(job.start.path, unfinished)
        ...         unfinished.rename(folder)  # complete or not at all
        ...         return TrainingReport(loss=None, steps=0, tokens=0, seconds=0.0, rows_used=0, rows_too_long=0)
        ...
        ...     async def aclose(self) -> None:
        ...         pass
        >>> trainer: Trainer = Unchanged()

    Give it to `open_run(..., trainer=trainer)`.
    """

    async def train(self, job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> TrainingReport:
        """Write the new checkpoint to `folder`, which must not exist yet. It appears complete or not at all.

        Raises `NothingToTrainError` when no row can be trained on, and otherwise `TrainingError`, which quotes the end of
        the trainer's log. Cancelling ends the trainer's processes within seconds.
        """
        ...

    async def aclose(self) -> None:
        """End whatever `train` has left running for the next job. Calling it again does nothing."""
        ...
