from __future__ import annotations

import json
import random
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.backends.local.chat_template import (
    IGNORED,
    EncodedExample,
    end_of_turn_id,
    example_ids,
    prompt_ids,
    prompt_text,
)
from meteor_agents.backends.training.config import (
    check_training,
    job_config,
    load_config,
    offloads_optimizer,
    read_hostfile,
)
from meteor_agents.backends.training.ranks.batching.encoding import (
    EncodedRow,
    check_supervision,
    encode_row,
    encode_rows,
)
from meteor_agents.backends.training.work_folder import ProgressTail, WorkFolder
from meteor_agents.errors import SettingsError, TrainingError
from meteor_agents.models import ChatMessage
from meteor_agents.training import (
    Checkpoint,
    DistilledReply,
    Example,
    LoraSettings,
    PairwiseLoss,
    PreferencePair,
    SelfDistillation,
    TrainingJob,
    TrainingRow,
    TrainingSettings,
)
from tests.support.tiny_model import make_tiny, real_tokenizer

torch = pytest.importorskip("torch", reason="needs the packages of the extra [local]")

PROMPT = (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Why is the sky blue?"))
DISTILLED = DistilledReply(
    id="d", prompt=PROMPT, informed=(*PROMPT[:1], ChatMessage(role="user", content="Not paint. Why?")), reply="Paint."
)
PRESETS = ["zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return real_tokenizer()


def example(number: int, target: str = "Because of scattering.") -> Example:
    return Example(id=str(number), prompt=PROMPT, target=target)


def job(**changes: Any) -> TrainingJob:
    fields: dict[str, Any] = {
        "name": "refine-001",
        "rows": (example(0), example(1)),
        "start": Checkpoint(version="base", path=Path("models/base")),
        "settings": TrainingSettings(),
    }
    return TrainingJob(**(fields | changes))


def encoded(lengths: list[int]) -> list[EncodedRow]:
    return [EncodedRow(str(i), (EncodedExample([7] * n, [IGNORED] + [7] * (n - 1)),)) for i, n in enumerate(lengths)]


# Encoding


def test_training_prompt_is_the_inference_prompt(tokenizer: Any) -> None:
    ids, labels = example_ids(tokenizer, PROMPT, "Because of scattering.")
    prefix = prompt_ids(tokenizer, PROMPT)
    assert ids[: len(prefix)] == prefix
    assert tokenizer.decode(prefix) == prompt_text(tokenizer, PROMPT)
    assert labels[: len(prefix)] == [IGNORED] * len(prefix)


def test_reply_and_end_of_turn_are_supervised(tokenizer: Any) -> None:
    ids, labels = example_ids(tokenizer, PROMPT, "Because of scattering.")
    supervised = [label for label in labels if label != IGNORED]
    assert supervised == ids[-len(supervised) :]
    assert tokenizer.decode(supervised[:-1]) == "Because of scattering."
    assert supervised[-1] == end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_pair_is_encoded_as_two_replies_to_one_prompt(tokenizer: Any) -> None:
    pair = PreferencePair(id="p", prompt=PROMPT, chosen="Scattering.", rejected="It is paint, I think.")
    chosen, rejected = encode_row(tokenizer, pair).sequences
    prefix = prompt_ids(tokenizer, PROMPT)
    assert chosen.ids[: len(prefix)] == rejected.ids[: len(prefix)] == prefix
    assert tokenizer.decode(chosen.ids[len(prefix) : -1]) == "Scattering."
    assert tokenizer.decode(rejected.ids[len(prefix) : -1]) == "It is paint, I think."


def test_row_over_the_limit_is_left_out_and_counted(tokenizer: Any) -> None:
    rows: list[TrainingRow] = [example(0), example(1, "word " * 300)]
    encoding = encode_rows(tokenizer, rows, max_length=100)
    assert [row.id for row in encoding.rows] == ["0"]
    assert encoding.too_long == 1


def test_job_without_a_usable_row_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"all 1 are longer than max_length 8"):
        encode_rows(tokenizer, [example(0)], max_length=8)


def test_row_that_teaches_no_end_of_turn_is_refused() -> None:
    row = EncodedRow("q7", (EncodedExample([1, 2, 3], [IGNORED, 2, 3]),))
    check_supervision(row, end_of_turn=3)
    with pytest.raises(TrainingError, match=r"q7.*would not stop"):
        check_supervision(row, end_of_turn=9)


def test_row_without_supervision_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"q8.*nothing to learn"):
        check_supervision(EncodedRow("q8", (EncodedExample([1, 2], [IGNORED, IGNORED]),)), end_of_turn=2)


# Batches


@pytest.mark.parametrize(
    ("rows", "batch_size", "micro", "ranks"), [(70, 32, 8, 1), (10, 32, 8, 1), (8, 6, 2, 2), (3, 2, 4, 2)]
)
def test_every_row_is_seen_once_an_epoch_whatever_the_ranks(rows: int, batch_size: int, micro: int, ranks: int) -> None:
    from meteor_agents.backends.training.ranks.batching.batches import BatchPlan

    settings = TrainingSettings(batch_size=batch_size, micro_batch_size=micro)
    plan = BatchPlan.of(rows, settings, ranks)
    batches = list(plan.epoch(encoded([5 + i % 9 for i in range(rows)]), seed="0-0"))
    shares = [plan.share(batch, rank) for batch in batches for rank in range(ranks)]
    seen = Counter(row.id for share in shares for cell in share for row in cell)
    assert seen == Counter(str(i) for i in range(rows))
    assert len(batches) == plan.steps_per_epoch
    assert max(len(batch) for batch in batches) <= batch_size
    assert all(len(share) == plan.accumulation for share in shares)
    assert max(len(cell) for share in shares for cell in share) <= plan.micro_batch_size <= micro


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    from meteor_agents.backends.training.ranks.batching.batches import BatchPlan

    rows = encoded([5 + i % 9 for i in range(64)])
    plan = BatchPlan.of(64, TrainingSettings(batch_size=4), ranks=1)

    def order(seed: str) -> list[str]:
        return [row.id for batch in plan.epoch(rows, seed) for row in batch]

    assert order("0-0") == order("0-0")
    assert order("0-0") != order("0-1")


def test_batches_hold_rows_of_similar_length() -> None:
    from meteor_agents.backends.training.ranks.batching.batches import BatchPlan

    rows = encoded([10 + 7 * i % 97 for i in range(64)])
    plan = BatchPlan.of(64, TrainingSettings(batch_size=8), ranks=1)
    padded = sum(max(row.length for row in batch) * len(batch) for batch in plan.epoch(rows, "0-0"))
    assert padded < 1.15 * sum(row.length for row in rows)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate_warms_up_to_its_peak_and_never_reaches_zero(schedule: Any) -> None:
    from meteor_agents.backends.training.ranks.batching.batches import learning_rate

    settings = TrainingSettings(learning_rate=0.5, warmup_ratio=0.2, schedule=schedule)
    rates = [learning_rate(step, 20, settings) for step in range(20)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert min(rates) > 0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert (rates[-1] == 0.5) == (schedule == "constant")


def test_job_of_one_step_learns_at_the_full_rate() -> None:
    from meteor_agents.backends.training.ranks.batching.batches import learning_rate

    assert learning_rate(0, 1, TrainingSettings(learning_rate=0.5)) == 0.5


# Losses


def test_sft_loss_is_the_mean_negative_log_likelihood_of_supervised_tokens() -> None:
    from meteor_agents.backends.training.ranks.batching.losses import sft_loss

    logits = torch.randn(2, 3, 5, requires_grad=True)
    labels = torch.tensor([[1, IGNORED, 4], [IGNORED, 0, 2]])
    loss = sft_loss(logits, labels)
    log_probs = torch.log_softmax(logits, -1)
    expected = -(log_probs[0, 0, 1] + log_probs[0, 2, 4] + log_probs[1, 1, 0] + log_probs[1, 2, 2]) / 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    probabilities = torch.softmax(logits.detach(), -1)
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), 5)
    gradient = (probabilities - one_hot) / 4 * (labels != IGNORED).unsqueeze(-1)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, gradient, atol=1e-6)


def test_losses_of_pieces_add_up_to_the_batch() -> None:
    from meteor_agents.backends.training.ranks.batching.losses import sft_loss

    logits, labels = torch.randn(7, 5), torch.tensor([1, 2, IGNORED, 4, 0, IGNORED, 3])
    parts = sft_loss(logits[:3], labels[:3], total=5) + sft_loss(logits[3:], labels[3:], total=5)
    assert parts.item() == pytest.approx(sft_loss(logits, labels).item(), abs=1e-6)


# Jobs and their files


def test_job_version_is_decided_by_data_start_settings_and_loss() -> None:
    versions = [
        job().version(),
        job(rows=(example(0), example(1, "Because."))).version(),
        job(rows=(example(1), example(0))).version(),
        job(start=Checkpoint(version="round-1", path=Path("models/base"))).version(),
        job(settings=TrainingSettings(learning_rate=1e-3)).version(),
        job(settings=TrainingSettings(lora=LoraSettings(r=8))).version(),
        job(loss=PairwiseLoss()).version(),
        job(loss=SelfDistillation()).version(),
        job(loss=SelfDistillation(divergence="jsd")).version(),
        *(
            job(rows=(example(0), row), loss=SelfDistillation()).version()
            for row in (DISTILLED, DISTILLED.model_copy(update={"informed": PROMPT}))
        ),
    ]
    assert len(set(versions)) == len(versions)
    assert job().version() == versions[0]
    assert job(start=Checkpoint(version="base", path=Path("elsewhere"))).version() == versions[0]


@pytest.mark.parametrize("loss", [None, PairwiseLoss(), SelfDistillation()])
def test_rows_without_their_loss_are_refused(loss: PairwiseLoss | SelfDistillation | None) -> None:
    pair = PreferencePair(id="p", prompt=PROMPT, chosen="Scattering.", rejected="Paint.")
    for row, needed in ((pair, PairwiseLoss), (DISTILLED, SelfDistillation)):
        if isinstance(loss, needed):
            assert job(rows=(example(0), row), loss=loss).rows[1] == row
        else:
            with pytest.raises(ValueError, match=f"row {row.id}: .* needs {needed.__name__}"):
                job(rows=(example(0), row), loss=loss)


lengths = st.lists(st.integers(2, 60), min_size=1, max_size=12)


@given(lengths, st.integers(8, 70))
def test_packed_rows_hold_each_sequence_once_and_are_no_longer_than_they_may(lengths: list[int], most: int) -> None:
    from meteor_agents.backends.training.ranks.batching.batches import pack

    sequences = [EncodedExample([number] * length, [number] * length) for number, length in enumerate(lengths)]
    rows = pack(sequences, most)
    assert sorted(sequence.ids[0] for row in rows for sequence in row) == list(range(len(lengths)))
    assert all(row for row in rows)
    assert max(sum(len(sequence.ids) for sequence in row) for row in rows) <= max(most, *lengths)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_loss_and_gradient_are_those_of_rows_of_their_own(tmp_path: Path, attention: str) -> None:
    from transformers import AutoModelForCausalLM

    from meteor_agents.backends.training.ranks.batching.batches import Tensors, collate, collate_packed
    from meteor_agents.backends.training.ranks.batching.losses import sft_loss
    from meteor_agents.backends.training.ranks.model import SupervisedLogits

    folder = make_tiny(tmp_path / "tiny")
    draw = random.Random(0)
    sequences = []
    for length in (5, 33, 12, 7, 21, 40, 9):
        ids = [draw.randrange(3, 4000) for _ in range(length)]
        sequences.append(EncodedExample(ids, [IGNORED] * (length // 2) + ids[length // 2 :]))

    def learned(tensors: Tensors) -> tuple[float, list[Any]]:
        model = SupervisedLogits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention))
        loss = sft_loss(model(tensors.ids, tensors.attention_mask, tensors.wanted, tensors.positions), tensors.labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.item(), [parameter.grad for parameter in model.parameters()]

    apart, gradients = learned(collate(sequences, torch.device("cpu")))
    packed = collate_packed(sequences, 64, torch.device("cpu"))
    assert packed.ids.shape[0] == 3  # of seven
    together, others = learned(packed)
    assert together == pytest.approx(apart, abs=1e-5)
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(gradients, others, strict=True))


def test_loss_in_chunks_is_the_loss_of_the_whole() -> None:
    from meteor_agents.backends.training.ranks.batching.losses import CHUNK, sft_loss, summed_in_chunks

    def learned(logits: Any, chunk: int = CHUNK) -> tuple[float, Any]:
        loss = summed_in_chunks(partial(sft_loss, total=5.0), logits, labels, chunk=chunk)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.item(), logits.grad

    labels = torch.tensor([1, 2, IGNORED, 4, 0, IGNORED, 3])
    numbers = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    whole, gradient = learned(numbers.clone().requires_grad_())
    pieces, other = learned(numbers.clone().requires_grad_(), chunk=100)
    assert pieces == pytest.approx(whole, abs=1e-6)
    assert torch.allclose(gradient, other, atol=1e-6)


def test_what_decides_no_weights_leaves_the_version_as_it_is() -> None:
    assert job(settings=TrainingSettings(tensorboard=True)).version() == job().version()
    assert job(keeps_optimizer=True).version() == job().version()
    assert job(settings=TrainingSettings(optimizer_state="reset")).version() == job().version()
    assert job(carries_optimizer=True).version() != job().version()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed here")
def test_tensorboard_without_its_package_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"pip install tensorboard"):
        check_training(TrainingSettings(tensorboard=True))


def test_tensorboard_gets_each_step(tmp_path: Path) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the package tensorboard"
    )
    from meteor_agents.backends.training.ranks.progress import Board

    with Board(tmp_path / "one") as board:
        for step in (1, 2, 3):
            board.add(step, loss=1.0 / step)
    events = reading.EventAccumulator(str(tmp_path / "one"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]


def test_job_survives_its_files(tmp_path: Path) -> None:
    pair = PreferencePair(id="p", prompt=PROMPT, chosen="Streuung ö\u2028.", rejected="no\nno")
    original = job(
        rows=(pair,), loss=PairwiseLoss(margin=0.2), start=Checkpoint(version="base", path=tmp_path / "base")
    )
    for number, mixed in enumerate([original, job(rows=(DISTILLED, example(0)), loss=SelfDistillation(divergence="jsd"))]):
        given = mixed.model_copy(update={"start": original.start})
        work = WorkFolder(tmp_path / f"work-{number}")
        work.write(given, {"zero_optimization": {"stage": 2}})
        assert work.read() == (given, {"zero_optimization": {"stage": 2}})


def test_progress_is_read_by_whole_lines(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    tail = ProgressTail(work.progress)
    assert tail.new_records() == []
    work.append_progress({"step": 1})
    with work.progress.open("a") as file:
        file.write('{"step"')
    assert tail.new_records() == [{"step": 1}]
    with work.progress.open("a") as file:
        file.write(": 2}\n")
    assert tail.new_records() == [{"step": 2}]
    assert tail.new_records() == []


# DeepSpeed's configuration


def filled(config: dict[str, Any], dtype: str = "bfloat16", accelerator: bool = True) -> dict[str, Any]:
    return job_config(
        config,
        dtype=dtype,
        micro_batch_size=4,
        accumulation=3,
        ranks=2,
        max_grad_norm=0.5,
        accelerator=accelerator,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_filled_from_the_settings(preset: str) -> None:
    config = filled(load_config(preset))
    assert config["zero_optimization"]["stage"] == int(preset[4])
    assert config["train_batch_size"] == 4 * 3 * 2
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.5
    assert offloads_optimizer(config) == preset.endswith("-offload")


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"), [("float32", False, False), ("bfloat16", True, False), ("float16", False, True)]
)
def test_dtype_decides_the_precision_section(dtype: str, bf16: bool, fp16: bool) -> None:
    config = filled({"fp16": {"initial_scale_power": 12}}, dtype)
    assert config["bf16"]["enabled"] == bf16
    assert config["fp16"] == {"initial_scale_power": 12, "enabled": fp16}


def test_nothing_is_offloaded_without_an_accelerator() -> None:
    config = filled(load_config("zero3-offload"), accelerator=False)
    assert not offloads_optimizer(config)
    assert "offload_param" not in config["zero_optimization"]


def test_auto_in_a_users_file_means_deepspeeds_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    zero = {"stage": 2, "reduce_bucket_size": "auto"}
    file.write_text(json.dumps({"train_batch_size": "auto", "bf16": {"enabled": "auto"}, "zero_optimization": zero}))
    config = filled(load_config(str(file)))
    assert config["zero_optimization"] == {"stage": 2}
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": False}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}', "sets 'optimizer'"),
        ("{", "mine.json"),
        ("[]", "one JSON object"),
        ('{"bf16": {"enabled": true}}', "stage must be 1, 2 or 3"),
    ],
)
def test_unusable_config_file_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match=sentence):
        load_config(str(file))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("one slots=2\ntwo: 2\n", r"line 2: expected `host slots=N`, found 'two: 2'"),
        ("one slots=0", "line 1"),
        ("one slots=2\n\none slots=2", "line 3: one is named twice"),
        ("# nobody\n", "names no host"),
        ("one slots=2\ntwo slots=4", "processes is 1, but .* has 6 slots"),
    ],
)
def test_unusable_hostfile_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(content)
    with pytest.raises(SettingsError, match=sentence):
        check_training(TrainingSettings(hostfile=file))


def test_hostfile_gives_the_ranks_of_each_machine_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# ours first\nworker-1 slots=8\n10.0.0.2 slots=4 # older\n")
    assert list(read_hostfile(file).items()) == [("worker-1", 8), ("10.0.0.2", 4)]
    check_training(TrainingSettings(hostfile=file, processes=12))


def test_missing_hostfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        check_training(TrainingSettings(hostfile=tmp_path / "none"))


def test_unknown_config_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"'zero9'.*zero1, zero2, zero2-offload, zero3, zero3-offload"):
        load_config("zero9")


def test_tensors_hold_each_supervised_token_once_and_what_fills_them_up_predicts_nothing() -> None:
    from meteor_agents.backends.training.ranks.batching.batches import LENGTH_STEP, LOGITS_STEP, collate

    rows = [
        EncodedExample([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8]),
        EncodedExample(list(range(10, 31)), [IGNORED] * 9 + list(range(19, 31))),
    ]
    tensors = collate(rows, torch.device("cpu"))
    assert tensors.ids.shape == (2, 2 * LENGTH_STEP)
    assert tensors.attention_mask is not None
    assert tensors.attention_mask.sum(1).tolist() == [4, 21]
    assert len(tensors.wanted) == len(tensors.labels) == LOGITS_STEP
    predicted = [
        (*divmod(at, 2 * LENGTH_STEP), label)
        for at, label in zip(tensors.wanted.tolist(), tensors.labels.tolist(), strict=True)
        if label != IGNORED
    ]
    assert predicted == [(0, 1, 7), (0, 2, 8), *((1, 8 + i, 19 + i) for i in range(12))]
    assert len(set(tensors.wanted.tolist())) == LOGITS_STEP
