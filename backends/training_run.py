"""One training job on one rank.

1. Read the job, encode its rows, plan its batches: every rank does the same, so each knows the whole plan.
2. Load the start checkpoint in the compute format, add adapters if asked, hand it to DeepSpeed.
3. For each batch: this rank's micro-batches forward and backward, one optimizer step, one line of progress.
4. Gather the float32 masters; rank 0 adds what changed to the start checkpoint, writes the new one and the report.
"""

from __future__ import annotations

import collections
import math
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from meteor_agents.backends.chat_template import IGNORED, EncodedExample
from meteor_agents.backends.checkpoint_folder import write_trained
from meteor_agents.backends.collation import collate
from meteor_agents.backends.deepspeed_config import job_config, offloads_optimizer
from meteor_agents.backends.freed_memory import give_back_freed_memory
from meteor_agents.backends.hardware import pick_dtype
from meteor_agents.backends.losses import sft_loss
from meteor_agents.backends.preference_batches import divergence_of, pair_loss, with_reference
from meteor_agents.backends.training_batches import BatchPlan, EncodedRow, encode_rows, learning_rate
from meteor_agents.backends.work_folder import WorkFolder
from meteor_agents.errors import TrainingError
from meteor_agents.training import LoraSettings, PairwiseLoss, TrainingJob, TrainingReport, TrainingSettings


def train(work: WorkFolder) -> None:
    clock = Clock()
    with clock("rows"):
        job, preset = work.read()
        place = Place.of_this_rank(job.settings)
        encoding = encode_rows(AutoTokenizer.from_pretrained(job.start.path), job.rows, job.settings.max_length)
        plan = BatchPlan.of(len(encoding.rows), job.settings, place.ranks)
        steps = plan.steps_per_epoch * job.settings.epochs
    if place.rank == 0:
        work.append_progress({"kind": "note", "text": _opening(job, place, plan, encoding.too_long, steps)})
    with clock("model"):
        model = _load(job, place, max(row.length for row in encoding.rows))
    with clock("deepspeed"):
        config = job_config(
            preset,
            dtype=place.dtype_name,
            micro_batch_size=plan.micro_batch_size,
            accumulation=plan.accumulation,
            ranks=place.ranks,
            max_grad_norm=job.settings.max_grad_norm,
            accelerator=place.accelerator,
        )
        engine = _engine(model, config, job.settings, place)
    rows = encoding.rows
    if job.loss is not None:
        with clock("reference"):
            rows = with_reference(engine, rows, job.loss, plan.micro_batch_size, place.device)
    with clock("steps"):
        done = [
            _step(engine, plan, batch, step, steps, job, place, work)
            for step, batch in enumerate(_batches(plan, rows, job.settings))
        ]
    with clock("save"):
        masters = _masters(engine, place)
        if place.rank == 0:
            write_trained(job.start.path, _change(model, masters, place.dtype), work.checkpoint)
    if place.rank == 0:
        work.write_report(
            TrainingReport(
                loss=_mean([step.loss for step in _last_tenth(done)]),
                steps=len(done),
                tokens=sum(step.tokens for step in done),
                seconds=clock.total(),
                rows_used=len(encoding.rows),
                rows_too_long=encoding.too_long,
                metrics=_metrics(done, plan, place, clock, engine),
            )
        )
    torch.distributed.destroy_process_group()


class Clock:
    """Seconds by phase, from the start of the process (Linux) or of this job."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {"imports": _process_age_s()}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - began, 3)

    def total(self) -> float:
        return round(self.seconds["imports"] + time.perf_counter() - self._began, 3)


def _process_age_s() -> float:
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"), 3)


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank this is, and what it computes on."""

    rank: int
    ranks: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of_this_rank(cls, settings: TrainingSettings) -> Place:
        """Joins the other ranks. Seeds are equal on all ranks, so that new adapters are."""
        random.seed(settings.seed)
        torch.manual_seed(settings.seed)
        accelerator = deepspeed.accelerator.get_accelerator()
        local_rank = int(os.environ["LOCAL_RANK"])
        if accelerator.device_name() == "cpu":
            _skip_operator_builds()
        else:
            accelerator.set_device(local_rank)
        deepspeed.init_distributed(verbose=False)
        device = torch.device(accelerator.device_name(local_rank))
        return cls(
            rank=torch.distributed.get_rank(),
            ranks=torch.distributed.get_world_size(),
            device=device,
            dtype=pick_dtype(settings.dtype, device),
        )

    @property
    def accelerator(self) -> bool:
        return self.device.type != "cpu"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def _skip_operator_builds() -> None:
    """DeepSpeed would look for a compiler, and build its shared-memory all-reduce, before the first step on a CPU.

    That takes most of a minute once a machine, and fails where there is no compiler; gloo does the same work.
    """
    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)


def _opening(job: TrainingJob, place: Place, plan: BatchPlan, too_long: int, steps: int) -> str:
    rows = len(job.rows) - too_long
    left_out = f" ({too_long} longer than {job.settings.max_length} tokens left out)" if too_long else ""
    return (
        f"{rows} rows{left_out}, {steps} steps of {plan.batch_size} as {plan.ranks} ranks x {plan.accumulation} x "
        f"{plan.micro_batch_size}, {place.dtype_name} on {place.device.type}"
    )


# The model


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

    def forward(self, ids: Tensor, attention_mask: Tensor, wanted: Tensor) -> Tensor:
        """ids, mask [rows, length], wanted [n] indices into rows x length -> logits [n, vocabulary]."""
        self._wanted = wanted
        logits: Tensor = self.model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits
        return logits[0]

    def _pick(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        return (hidden.flatten(0, 1)[self._wanted].unsqueeze(0), *others)


SHORT = 256
"""Tokens up to which a CPU is faster without the fused attention, whose backward pass there is slow for short rows."""


def _load(job: TrainingJob, place: Place, longest: int) -> SupervisedLogits:
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


def _engine(model: SupervisedLogits, config: dict[str, Any], settings: TrainingSettings, place: Place) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]  # norms and biases do not decay
    groups = [
        {"params": parameters, "weight_decay": decay}
        for all_parameters, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        for parameters in _portions(all_parameters)
    ]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=trained, optimizer=_optimizer(groups, config, settings), config=config
    )
    torch.manual_seed(settings.seed + place.rank)  # from here on only dropout draws
    return engine


PORTION = 1 << 25
"""Parameters of one group, or a little more: DeepSpeed copies a group's gradients whole to float32, one at a time."""


def _portions(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
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


# The steps


class Step(NamedTuple):
    loss: float
    tokens: int
    margin: float
    """Of preference pairs: mean per-token log-likelihood of the chosen replies less that of the rejected."""
    seconds: float


def _batches(plan: BatchPlan, rows: Sequence[EncodedRow], settings: TrainingSettings) -> Iterator[list[EncodedRow]]:
    for epoch in range(settings.epochs):
        yield from plan.epoch(rows, f"{settings.seed}-{epoch}")


def _step(
    engine: Any,
    plan: BatchPlan,
    batch: list[EncodedRow],
    step: int,
    steps: int,
    job: TrainingJob,
    place: Place,
    work: WorkFolder,
) -> Step:
    began = time.perf_counter()
    rate = learning_rate(step, steps, job.settings)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    sums = torch.zeros(2, device=place.device)
    share = plan.share(batch, place.rank)
    divergence = divergence_of(engine, share, batch, job.loss, place.device)
    for rows in share:
        loss, margin = _micro_loss(engine, rows, batch, job.loss, divergence, place)
        sums += torch.stack([loss.detach(), margin])
        engine.backward(loss * (plan.accumulation * plan.ranks))  # DeepSpeed averages over both; the loss is a sum
        engine.step()
    if place.ranks > 1:
        torch.distributed.all_reduce(sums)
    total, margin_mean = sums.tolist()
    broken = "loss" if not math.isfinite(total) else "gradient" if _lost_gradient(engine, place) else None
    if broken:
        raise TrainingError(
            f"the {broken} is not finite at step {step + 1} of {steps}: try a lower learning_rate, or dtype float32"
        )
    tokens = sum(row.tokens for row in batch)
    seconds = time.perf_counter() - began
    if place.rank == 0:
        work.append_progress(
            {
                "kind": "step",
                "step": step + 1,
                "steps": steps,
                "loss": total,
                "learning_rate": rate,
                "tokens_per_s": tokens / seconds,
            }
        )
    return Step(total, tokens, margin_mean, seconds)


def _lost_gradient(engine: Any, place: Place) -> bool:
    """Whether the last step's gradient was not finite. float16 meets such steps in passing, and DeepSpeed skips them."""
    norm = engine.get_global_grad_norm()
    return place.dtype != torch.float16 and norm is not None and not 0 <= float(norm) < math.inf


def _micro_loss(
    engine: Any,
    rows: list[EncodedRow],
    batch: list[EncodedRow],
    loss: PairwiseLoss | None,
    divergence: float,
    place: Place,
) -> tuple[Tensor, Tensor]:
    """This micro-batch's part of the whole batch's loss, and of its margin; the parts add up."""
    none = torch.zeros((), device=place.device)
    if not rows:  # every rank makes the same number of passes: this one counts nothing
        ids = batch[0].sequences[0].ids[:2]
        tensors = collate([EncodedExample(ids, [IGNORED, *ids[1:]])], place.device)
        return engine(tensors.ids, tensors.attention_mask, tensors.wanted).float().sum() * 0.0, none
    if loss is None:
        tensors = collate([row.sequences[0] for row in rows], place.device)
        logits = engine(tensors.ids, tensors.attention_mask, tensors.wanted)
        return sft_loss(logits, tensors.labels, total=sum(row.supervised for row in batch)), none
    return pair_loss(engine, rows, loss, divergence, len(batch), place.device)


# The new checkpoint


def _masters(engine: Any, place: Place) -> dict[str, Tensor]:
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


def _change(
    model: SupervisedLogits, masters: dict[str, Tensor], dtype: torch.dtype
) -> Callable[[str, Tensor], Tensor | None]:
    """What training added to one parameter of the start checkpoint, in float32; None: nothing."""
    adapters = _adapters(model.model)

    def full(name: str, start: Tensor) -> Tensor | None:
        if name not in masters:
            return None
        return masters[name] - start.to(dtype).float()  # the master began at the start, rounded to the compute format

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


# The report


def _metrics(done: list[Step], plan: BatchPlan, place: Place, clock: Clock, engine: Any) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "device": place.device.type,
        "dtype": place.dtype_name,
        "ranks": place.ranks,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "tokens_per_s": round(sum(step.tokens for step in done) / sum(step.seconds for step in done), 1),
        "phase_s": clock.seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "skipped_steps": engine.skipped_steps,
    }
    if place.device.type == "cuda":
        metrics["peak_cuda_mib"] = torch.cuda.max_memory_allocated() // (1 << 20)
    if any(step.margin for step in done):
        tenth = len(_last_tenth(done))
        metrics["margin_first"] = _mean([step.margin for step in done[:tenth]])
        metrics["margin_last"] = _mean([step.margin for step in done[-tenth:]])
    return metrics


def _last_tenth(done: list[Step]) -> list[Step]:
    return done[-math.ceil(len(done) / 10) :]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
