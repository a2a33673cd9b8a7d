"""Profiles of stage 3 and their comparison, with a student that is scripted and a trainer that only writes folders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from meteor_agents.analysis.ablation import Arm, difference, rows, run_arm, variant
from meteor_agents.assembly.config_file import dump_config, read_config
from meteor_agents.cli.commands.ablate import ablate, print_ablation
from meteor_agents.errors import SettingsError, UsageError
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.settings.decoding import Decoding
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.stages import PROFILES, instead
from meteor_agents.training import Checkpoint
from tests.pipeline.test_pipeline import BASE, FolderTrainer, Run, settings
from tests.pipeline.test_self_training import Decoder

UNTRAINED = Path("models/small")
START = Checkpoint(version="refine-003-00000000", path=Path("checkpoints/refine-003-00000000"))


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_what_it_says_and_what_is_given_beside_it_goes_before(name: str) -> None:
    stage = settings(self_train={"profile": name}).self_train
    assert {key: getattr(stage, key) for key in ("verify", "loss", "nll")} == {
        key: PROFILES[name][key] for key in ("verify", "loss", "nll")
    }
    assert stage.high == Decoding.model_validate(PROFILES[name]["high"])
    assert settings(self_train={"profile": name, "nll": 0.25}).self_train.nll == 0.25


def test_the_published_profile_is_the_published_setting() -> None:
    published = read_config("llama3-8b")
    stage = settings(self_train={"profile": "paper"}).self_train
    assert (stage.low, stage.high, stage.verify) == (
        published.self_train.low,
        published.self_train.high,
        published.self_train.verify,
    )


def test_a_profile_reads_back_from_the_run_directory_as_it_was() -> None:
    given = settings(self_train={"profile": "best", "nll": 0.5, "turns": 2})
    assert load_settings(yaml.safe_load(dump_config(given)), base=Path(), source="config.yaml") == given


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"self_train\.profile"):
        settings(self_train={"profile": "papre"})


def test_one_profile_inherits_nothing_of_another_that_decides_pairs_or_loss() -> None:
    given = {"high": {"beam": 4}, "verify": True, "margin": 0.3, "near_equal": 0.5, "turns": 2, "questions": 7}
    assert instead(given, {"profile": "paper"}) == {"turns": 2, "questions": 7, "profile": "paper"}


def test_an_arm_starts_from_the_checkpoint_with_its_own_seed() -> None:
    given = settings(self_train={"high": {"beam": 4}, "turns": 2, "training": {"seed": 7, "epochs": 1}})
    varied = variant(given, UNTRAINED, START, {"profile": "best"}, seed=2)
    assert varied.student.model == str(START.path)
    assert (varied.student.sampling.seed, varied.training_for(varied.self_train).seed) == (2, 2)
    assert (varied.self_train.turns, varied.self_train.verify, varied.self_train.high) == (
        2,
        True,
        Decoding(best_of=8, by="judge"),
    )
    assert variant(given, UNTRAINED, START, None, seed=0).self_train.high == Decoding(beam=4)


def test_a_contrast_with_the_base_is_one_with_the_student_that_no_one_has_trained() -> None:
    contrast = {"high": {"contrast": "base", "beta": 0.3}}
    varied = variant(settings(), UNTRAINED, START, contrast, seed=0)
    assert varied.self_train.high == Decoding(contrast=str(UNTRAINED), beta=0.3)


def arms_of(folder: Path, learner: Decoder, trainer: FolderTrainer) -> list[Arm]:
    """Two profiles, two seeds, in one run directory."""
    found: list[Arm] = []
    student = {"backend": "scripted", "model": "student", "limits": {"concurrency": 4}}
    for name, high in (("few", {"best_of": 2}), ("many", {"best_of": 4})):
        for seed in (0, 1):
            stage: dict[str, Any] = {"high": high, "verify": True}
            given = {"student": {**student, "sampling": {"seed": seed}}, "training": {"seed": seed}}
            run = Run(folder, learner, trainer, **given, self_train=stage)

            async def arm(pipeline: Pipeline, name: str = name, seed: int = seed) -> None:
                found.append(await run_arm(pipeline.session, name, seed))

            run(arm)
    return found


def test_profiles_are_compared_question_by_question_from_one_start(tmp_path: Path) -> None:
    learner, trainer = Decoder(), FolderTrainer()
    learner.learns = 6
    arms = arms_of(tmp_path, learner, trainer)
    assert [(arm.profile, arm.seed) for arm in arms] == [("few", 0), ("few", 1), ("many", 0), ("many", 1)]
    assert len({arm.checkpoint for arm in arms}) == 4
    assert len({job.start.version for job in trainer.jobs}) == 1
    assert [(arm.pairs, arm.questions) for arm in arms] == [(20, 40), (20, 40), (40, 40), (40, 40)]
    # The scripted student learns 6 of the 30 held-out questions from any update, whatever it was trained on.
    few, many = rows(arms)
    assert (few.heldout, few.questions, few.seeds) == ("held out", 30, 2)
    assert few.gain.value == many.gain.value == pytest.approx(6 / 30)
    assert few.by_seed == pytest.approx((6 / 30, 6 / 30))
    assert 0 < few.gain.low < few.gain.value < few.gain.high
    assert difference(arms, "held out", "few", "many") == (0, 0, 0)


def test_an_ablation_that_is_repeated_asks_and_trains_nothing(tmp_path: Path) -> None:
    learner, trainer = Decoder(), FolderTrainer()
    learner.learns = 6
    arms = arms_of(tmp_path, learner, trainer)
    calls, jobs = learner.calls, len(trainer.jobs)
    assert arms_of(tmp_path, learner, trainer) == arms
    assert (learner.calls, len(trainer.jobs)) == (calls, jobs)


def test_the_table_says_gains_with_intervals_and_where_nothing_differs(tmp_path: Path) -> None:
    learner = Decoder()
    learner.learns = 6
    arms = arms_of(tmp_path, learner, FolderTrainer())
    out = io.StringIO()
    print_ablation(arms, BASE, Console(file=out, width=150))
    text = out.getvalue()
    assert "held out: stage 3 from base" in text
    assert "+20.0% (" in text
    assert "20/40 20/40" in text
    assert "many over few: no question differs" in text


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ("papre", "did you mean 'paper'"),
        ("none.yaml", r"none\.yaml cannot be read"),
        ("list.yaml", "must hold settings of self_train"),
        ("paper", "is not a run directory; run `meteor refine"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- greedy")
    with pytest.raises(UsageError, match=message):
        ablate("quickstart", profiles=profiles, seeds=1, run_dir=None, overrides=(), limit=None)


def test_a_profile_of_ones_own_that_cannot_work_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name one decoding"):
        variant(settings(), UNTRAINED, START, {"high": {"beam": 2, "vote": 3}}, seed=0)
