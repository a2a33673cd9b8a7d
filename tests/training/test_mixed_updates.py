"""Updates that hold supervised rows beside preference pairs or distilled replies: gradients against plain torch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.models import ChatMessage
from meteor_agents.training import (
    ChatExample,
    Checkpoint,
    DistilledReply,
    Example,
    PairwiseLoss,
    PreferencePair,
    SelfDistillation,
    TrainingJob,
    TrainingReport,
    TrainingRow,
    TrainingSettings,
)
from tests.support.tiny_model import make_tiny

torch = pytest.importorskip("torch", reason="needs the packages of the extra [local]")
pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")

CPU = torch.device("cpu")


def asked(number: int, more: str = "") -> tuple[ChatMessage, ...]:
    return (ChatMessage(role="user", content=f"What is {number} plus {number}?{more}"),)


EXAMPLES: list[TrainingRow] = [
    Example(id="e1", prompt=asked(1), target="It is 2, as everybody knows who has fingers."),
    Example(id="replay-e2", prompt=asked(2), target="4."),
    ChatExample(
        id="c3",
        messages=(
            *asked(3),
            ChatMessage(role="assistant", content="Seven."),
            ChatMessage(role="user", content="No."),
            ChatMessage(role="assistant", content="Six, then."),
        ),
    ),
]
PAIRS: list[TrainingRow] = [
    PreferencePair(
        id=f"p{i}",
        prompt=asked(i),
        chosen=f"It is {2 * i}." + " Sure." * (i % 3),
        rejected="Who knows?" + " Not I." * i,
    )
    for i in range(4)
]
REPLIES: list[TrainingRow] = [
    DistilledReply(
        id=f"d{i}",
        prompt=asked(i),
        informed=asked(i, f" It is not {3 * i}. Count on."),
        reply=f"It is {3 * i}." + " So." * i,
    )
    for i in range(4)
]
CASES: dict[str, tuple[PairwiseLoss | SelfDistillation, list[TrainingRow]]] = {
    "dpo": (PairwiseLoss(name="dpo", beta=0.3, nll=0.2), [*PAIRS, *EXAMPLES]),
    "kto": (PairwiseLoss(name="kto", beta=0.4), [*PAIRS, *EXAMPLES]),
    "hinge": (PairwiseLoss(margin=30.0, length_desensitise=0.5), [*EXAMPLES, *PAIRS]),
    "reverse": (SelfDistillation(), [*REPLIES, *EXAMPLES]),
    "forward": (SelfDistillation(divergence="forward"), [*REPLIES, *EXAMPLES]),
    "jsd": (SelfDistillation(divergence="jsd"), [*EXAMPLES, *REPLIES]),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "base")


class Student:
    """A model that has moved from its start, and rows that know the start's log-probabilities: the middle of an update."""

    def __init__(self, base: Path, case: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from meteor_agents.backends.training.ranks.batching.encoding import encode_rows
        from meteor_agents.backends.training.ranks.batching.preference_batches import with_reference
        from meteor_agents.backends.training.ranks.model import SupervisedLogits

        self.loss, rows = CASES[case]
        self.start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        self.rows = encode_rows(AutoTokenizer.from_pretrained(base), rows, 256).rows
        if isinstance(self.loss, PairwiseLoss):
            self.rows = with_reference(SupervisedLogits(deepcopy(self.start)), self.rows, self.loss, 3, CPU)
        self.model = deepcopy(self.start)
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=noise)

    def gradient(self, rank: int, ranks: int, micro_batch_size: int) -> tuple[float, Any]:
        """What the trainer's code makes of this rank's share of one batch of all rows: loss, and gradient, flattened."""
        from meteor_agents.backends.training.ranks.batching.batches import BatchPlan
        from meteor_agents.backends.training.ranks.batching.preference_batches import divergence_of
        from meteor_agents.backends.training.ranks.model import SupervisedLogits
        from meteor_agents.backends.training.ranks.rank import Rank
        from meteor_agents.backends.training.ranks.steps import micro_loss

        settings = TrainingSettings(batch_size=len(self.rows), micro_batch_size=micro_batch_size)
        share = BatchPlan.of(len(self.rows), settings, ranks).share(self.rows, rank)
        engine = SupervisedLogits(deepcopy(self.model)).train()
        divergence = divergence_of(engine, share, self.rows, self.loss, CPU)
        total = 0.0
        for rows in share:
            loss: Any
            loss, _ = micro_loss(
                engine, rows, self.rows, self.loss, divergence, Rank(rank, ranks, CPU, torch.float32), None
            )
            loss.backward()
            total += loss.item()
        return total, flat_gradient(engine.model)

    def expected(self) -> tuple[float, Any]:
        """The same by plain torch, one sequence at a time, from the equations in docs/training.md."""
        pairs, replies, examples = ([row for row in self.rows if row.kind == kind]
                                    for kind in ("pair", "distilled", "supervised"))  # fmt: skip
        said = [said_by(self.model, row.sequences[0]) for row in examples]
        total = -sum(each.sum() for each in said) / sum(map(len, said)) * len(examples)
        if isinstance(self.loss, PairwiseLoss):
            total = total + self.expected_of_pairs(pairs, self.loss)
        else:
            total = total + sum(expected_divergence(self.model, row.sequences, self.loss) for row in replies)
        loss: Any = total / len(self.rows)
        loss.backward()
        return loss.item(), flat_gradient(self.model)

    def expected_of_pairs(self, pairs: Sequence[Any], loss: PairwiseLoss) -> Any:
        def ratio(sequence: Any) -> Any:
            with torch.no_grad():
                before = said_by(self.start, sequence).sum()
            return said_by(self.model, sequence).sum() - before

        values: list[Any] = []
        z0 = 0.0
        if loss.name == "kto":
            with torch.no_grad():
                z0 = max(0.0, float(sum(ratio(row.sequences[2]) for row in pairs)) / len(pairs))
        for row in pairs:
            chosen, rejected = (said_by(self.model, sequence) for sequence in row.sequences[:2])
            if loss.name == "hinge":
                shared = min(len(chosen), len(rejected))
                means = [(said[:shared].sum() + 0.5 * said[shared:].sum()) / (shared + 0.5 * (len(said) - shared))
                         for said in (chosen, rejected)]  # fmt: skip
                values.append(torch.relu(loss.margin - means[0] + means[1]))
                continue
            won, lost = ratio(row.sequences[0]), ratio(row.sequences[1])
            if loss.name == "dpo":
                values.append(-torch.log(torch.sigmoid(loss.beta * (won - lost))))
            else:
                values.append(1 - (torch.sigmoid(loss.beta * (won - z0)) + torch.sigmoid(loss.beta * (z0 - lost))) / 2)
            values[-1] = values[-1] - loss.nll * chosen.mean()
        return sum(values)


def flat_gradient(model: Any) -> Any:
    gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    return gradients


def distributions(model: Any, sequence: Any) -> Any:
    """log p of every token of the vocabulary, at the positions of the reply, [tokens, vocabulary]."""
    log_probs = torch.log_softmax(model(input_ids=torch.tensor([sequence.ids])).logits[0].float(), -1)
    return log_probs[:-1][torch.tensor(sequence.labels[1:]) >= 0]


def said_by(model: Any, sequence: Any) -> Any:
    """log p of the reply's tokens, [tokens]."""
    tokens = torch.tensor([label for label in sequence.labels[1:] if label >= 0])
    return distributions(model, sequence).gather(1, tokens[:, None])[:, 0]


def expected_divergence(model: Any, sequences: Any, loss: SelfDistillation) -> Any:
    q, p = distributions(model, sequences[0]), distributions(model, sequences[1]).detach()

    def between(one: Any, other: Any) -> Any:
        return torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=each) for each in (one, other)))

    mixed = ((p.exp() + q.exp()) / 2).log()
    values = {
        "reverse": lambda: between(q, p),
        "forward": lambda: between(p, q),
        "jsd": lambda: (between(p, mixed) + between(q, mixed)) / 2,
    }
    return values[loss.divergence]().mean()


def agree(found: tuple[float, Any], expected: tuple[float, Any]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert expected[1].abs().max() > 1e-2
    assert torch.allclose(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_a_mixed_batch_is_that_of_plain_torch_however_it_is_split(base: Path, case: str) -> None:
    student = Student(base, case)
    expected = student.expected()
    for micro_batch_size in (1, 3, 7):
        agree(student.gradient(0, 1, micro_batch_size), expected)


ON_TWO_RANKS = ("dpo", "kto", "reverse")


def compute(rank: int, base: Path, folder: Path) -> None:
    """One of two ranks: its part of each case's loss and gradient, summed over both, is written by rank 0."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = {}
    for case in ON_TWO_RANKS:
        loss, gradient = Student(base, case).gradient(rank, 2, 2)
        both = torch.cat([torch.tensor([loss]), gradient])
        torch.distributed.all_reduce(both)
        found[case] = both
    if rank == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


def test_gradient_of_a_mixed_batch_is_the_same_on_two_ranks(base: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(compute, (base, tmp_path), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    for case in ON_TWO_RANKS:
        agree((found[case][0].item(), found[case][1:]), Student(base, case).expected())


# Whole updates under DeepSpeed


Train = Callable[[TrainingJob, Path], tuple[TrainingReport, list[float]]]


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """Does jobs one after another in the same processes; the report, and the loss of each step."""
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer
    from meteor_agents.events import Event, TrainingProgress

    with asyncio.Runner() as runner:
        trainer = DeepSpeedTrainer()

        def run(job: TrainingJob, folder: Path) -> tuple[TrainingReport, list[float]]:
            events: list[Event] = []
            report = runner.run(trainer.train(job, folder, events.append))
            return report, [event.loss for event in events if isinstance(event, TrainingProgress)]

        yield run
        runner.run(trainer.aclose())


@pytest.mark.slow
def test_mixed_updates_train_alike_on_one_rank_and_on_two_that_hold_half_the_weights_each(
    base: Path, tmp_path: Path, train: Train
) -> None:
    """Batches of 4 and 3 as micro-batches of one row: ranks are without rows, or without some kind of row, at times."""
    too_long = Example(id="long", prompt=asked(1), target="word " * 200)
    cases = ("kto", "reverse")

    def job(case: str, config: str, processes: int) -> TrainingJob:
        loss, rows = CASES[case]
        settings = TrainingSettings(
            config=config, processes=processes, learning_rate=2e-3, epochs=6, batch_size=4, micro_batch_size=1,
            dtype="float32", max_length=128, packing=True,
        )  # fmt: skip
        start = Checkpoint(version="base", path=base)
        return TrainingJob(name="refine-001", rows=(*rows, too_long), start=start, settings=settings, loss=loss)

    on_one = {case: train(job(case, "zero2", 1), tmp_path / f"{case}-1") for case in cases}
    on_two = {case: train(job(case, "zero3", 2), tmp_path / f"{case}-2") for case in cases}
    for case in cases:
        (one, losses), (two, others) = on_one[case], on_two[case]
        assert len(losses) == 12
        assert losses == pytest.approx(others, rel=1e-3)
        assert sum(losses[-2:]) < 0.8 * sum(losses[:2])
        assert (one.rows_used, one.rows_too_long) == (two.rows_used, two.rows_too_long) == (7, 1)
        assert ("margin_last" in one.metrics) is (case == "kto")


@pytest.mark.slow
@pytest.mark.parametrize("loss", [SelfDistillation(), SelfDistillation(divergence="forward")])
def test_distilled_student_predicts_without_the_feedback_what_it_predicts_with_it(
    base: Path, tmp_path: Path, loss: SelfDistillation, train: Train
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from meteor_agents.backends.training.ranks.batching.encoding import encode_rows

    settings = TrainingSettings(learning_rate=1e-3, epochs=10, batch_size=4, micro_batch_size=2, dtype="float32")
    start = Checkpoint(version="base", path=base)
    job = TrainingJob(name="refine-001", rows=tuple(REPLIES), start=start, settings=settings, loss=loss)
    _, losses = train(job, tmp_path / "new")

    rows = encode_rows(AutoTokenizer.from_pretrained(base), REPLIES, 256).rows

    def divergence_of(folder: Path) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            return float(sum(expected_divergence(model, row.sequences, loss) for row in rows)) / len(rows)

    at_first, at_last = divergence_of(base), divergence_of(tmp_path / "new")
    assert losses[0] == pytest.approx(at_first, rel=1e-4)
    assert at_last < 0.5 * at_first
