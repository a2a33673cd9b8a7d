"""Every pairwise loss in a real training of a tiny model: it falls, and the chosen replies pull ahead."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest

from meteor_agents.models import ChatMessage
from meteor_agents.training import Checkpoint, LossName, PairwiseLoss, PreferencePair, TrainingJob, TrainingSettings
from tests.support.tiny_model import make_tiny

torch = pytest.importorskip("torch", reason="needs the packages of the extra [local]")

NAMES: tuple[LossName, ...] = get_args(LossName)
PAIRS = [
    PreferencePair(
        id=str(i),
        prompt=(ChatMessage(role="user", content=f"What is {i} plus {i}?"),),
        chosen=f"It is {2 * i}.",
        rejected="Nobody can know that, sorry." + " Really." * i,
    )
    for i in range(4)
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def loaded(base: Path) -> tuple[Any, list[Any]]:
    """The model as a worker has it, and the encoded pairs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from meteor_agents.backends.training.ranks.batching.encoding import encode_rows

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model, encode_rows(AutoTokenizer.from_pretrained(base), PAIRS, 128).rows


def supervised_logits(model: Any) -> Any:
    from meteor_agents.backends.training.ranks.model import SupervisedLogits

    return SupervisedLogits(deepcopy(model)).train()


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_and_the_chosen_replies_pull_ahead(name: LossName, loaded: tuple[Any, list[Any]]) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    from meteor_agents.backends.training.ranks.batching.batches import Mixture
    from meteor_agents.backends.training.ranks.batching.preference_batches import (
        divergence_of,
        pair_loss,
        with_reference,
    )

    loss = PairwiseLoss(name=name, nll=0.05, length_desensitise=0.5, **({"margin": 0.5} if name == "hinge" else {}))
    engine = supervised_logits(loaded[0])
    rows = with_reference(engine, loaded[1], loss, 3, CPU)
    optimizer = torch.optim.AdamW(engine.parameters(), lr=2e-3)
    seen = []
    for _ in range(12):
        divergence = divergence_of(engine, [rows[:3], rows[3:]], rows, loss, CPU)
        parts = [pair_loss(engine, part, loss, divergence, Mixture.of(rows), CPU) for part in (rows[:3], rows[3:])]
        optimizer.zero_grad()
        sum(part.loss for part in parts).backward()  # type: ignore[union-attr]  # two parts: no int is left
        optimizer.step()
        seen.append((sum(part.loss.item() for part in parts), sum(part.margin.item() for part in parts)))
    assert seen[-1][0] < seen[0][0] - 0.01
    assert seen[-1][1] > seen[0][1] + 0.1


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_reference_is_the_model_before_its_first_step(alpha: float, loaded: tuple[Any, list[Any]]) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    from meteor_agents.backends.training.ranks.batching.preference_batches import divergence_of, with_reference

    model, encoded = loaded
    loss = PairwiseLoss(name="kto", length_desensitise=alpha)
    engine = supervised_logits(model)
    rows = with_reference(engine, encoded, loss, 2, CPU)
    for row in rows:
        lengths = [sum(label >= 0 for label in sequence.labels) for sequence in row.sequences[:2]]
        for side in (0, 1):
            sequence = row.sequences[side]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([sequence.ids])).logits[0]
            log_probs = torch.log_softmax(logits.float(), -1)[:-1].gather(1, torch.tensor(sequence.ids[1:])[:, None])
            said = log_probs[-lengths[side] :, 0]
            shared = min(lengths)
            expected = said[:shared].sum() + alpha * said[shared:].sum()
            assert row.reference[side] == pytest.approx(expected.item(), abs=1e-3)
    assert divergence_of(engine, [rows], rows, loss, CPU) == pytest.approx(0, abs=1e-4)  # nothing has moved yet


def test_mismatched_replies_belong_to_other_prompts_and_are_no_longer_than_the_row(
    loaded: tuple[Any, list[Any]],
) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    from meteor_agents.backends.training.ranks.batching.preference_batches import with_reference

    before = loaded[1]
    rows = with_reference(supervised_logits(loaded[0]), before, PairwiseLoss(name="kto"), 8, CPU)
    for index, row in enumerate(rows):
        chosen, _, mismatched = row.sequences
        other = before[(index + 1) % len(before)].sequences[index % 2]
        prompt = sum(label < 0 for label in chosen.labels)
        reply = [token for token, label in zip(other.ids, other.labels, strict=True) if label >= 0]
        assert mismatched.ids[:prompt] == chosen.ids[:prompt]
        assert mismatched.ids[prompt:] == reply[: len(mismatched.ids) - prompt]
        assert prompt < len(mismatched.ids) <= before[index].length
        assert row.length == before[index].length


def test_losses_without_a_reference_ask_for_none(loaded: tuple[Any, list[Any]]) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    from meteor_agents.backends.training.ranks.batching.preference_batches import with_reference

    for name in ("hinge", "simpo"):
        assert with_reference(None, loaded[1], PairwiseLoss(name=name), 2, CPU) == loaded[1]


@pytest.mark.slow
def test_kto_is_trained_on_two_ranks_that_hold_a_part_of_the_weights_each(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer
    from meteor_agents.events import Event, TrainingProgress

    job = TrainingJob(
        name="self-train-001",
        rows=tuple(PAIRS),  # batches of 3 and 1: a rank is without rows at times
        start=Checkpoint(version="base", path=base),
        settings=TrainingSettings(
            config="zero3",
            processes=2,
            learning_rate=2e-3,
            epochs=6,
            batch_size=3,
            micro_batch_size=1,
            dtype="float32",
        ),
        loss=PairwiseLoss(name="kto", beta=0.5),
    )
    events: list[Event] = []
    report = asyncio.run(DeepSpeedTrainer().train(job, tmp_path / "new", events.append))
    losses = [event.loss for event in events if isinstance(event, TrainingProgress)]
    assert len(losses) == 12
    assert losses[0] == pytest.approx(0.5, abs=1e-4)  # each row's reference, from whichever rank, is the model itself
    assert losses[-1] < losses[0] - 0.05
    assert report.metrics["margin_last"] > report.metrics["margin_first"]
