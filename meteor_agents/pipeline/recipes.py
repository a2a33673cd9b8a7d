"""Recipes: for each stage, a hash of everything that decides its conversations. Its work is stored under it.

Without a change, the recipe is the same and all work is found. An edit changes the recipe: the stage's conversations are
repeated, with stored replies wherever their calls are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from meteor_agents.evaluation.grading import EVALUATE
from meteor_agents.method.conversations import DISTILL, REFINE, SELF_TRAIN
from meteor_agents.method.replies import READING
from meteor_agents.settings.roles import REFERENCE
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import DECIDES_PAIRS
from meteor_agents.training import Checkpoint

FINETUNE = "finetune"

_PROMPTS_OF = {
    DISTILL: ("student_guideline", "teacher_answer"),
    REFINE: ("student_attempt", "student_revise", "judge_verdict", "teacher_guide"),
    SELF_TRAIN: ("student_attempt", "student_critique", "student_redraft", "judge_verdict", "judge_score"),
    EVALUATE: ("student_attempt", "judge_score"),
}

_ROLES_OF = {
    DISTILL: ("student", "teacher"),
    FINETUNE: ("student", "teacher"),
    REFINE: ("student", "teacher", "judge"),
    SELF_TRAIN: ("student", "judge"),
    EVALUATE: ("student", "judge"),
}


class Recipes:
    """The recipes of one run's settings and prompts (`prompt_hashes`: template name -> hash of its text).

    Which questions a stage takes is not part of a recipe, so a run can be widened.
    """

    def __init__(self, settings: Settings, prompt_hashes: Mapping[str, str]) -> None:
        self._settings = settings
        self._prompt_hashes = prompt_hashes

    def distill(self, base: Checkpoint) -> str:
        """Stage 1's conversations."""
        stage = self._settings.distill
        more = {"revise": True, "judge": self._judge()} if stage.revise else {}
        return self._recipe(DISTILL, base, guideline=stage.guideline, **more)

    def finetune(self, base: Checkpoint, *, own_rows: str | None = None) -> str:
        """Stage 1's training. `own_rows` is a hash of the user's own rows, where those are trained on."""
        return self._recipe(FINETUNE, base, **({"own_rows": own_rows} if own_rows else {}))

    def refine(self, entered: Checkpoint, *, trains: bool) -> str:
        """Stage 2, begun with the student `entered`. Whether it trains is part of it, since updates change the replies."""
        training = (
            self._settings.training.model_dump(mode="json", exclude={"hostfile", "tensorboard"}) if trains else None
        )
        options = self._settings.refine.model_dump(mode="json", exclude={"questions", "skip"})
        if options["exhausted"] == "drop":
            del options["exhausted"]  # runs that were made before it existed keep their recipe
        elif self._settings.teacher.backend != REFERENCE:
            options["answer"] = self._prompt_hashes["teacher_answer"]
        if self._settings.refine.in_one_chat:
            options["feedback"] = self._prompt_hashes["student_feedback"]
        return self._recipe(REFINE, entered, **options, base_training=training)

    def self_train(self, start: Checkpoint, turn: int) -> str:
        """One turn of stage 3. How its pairs are trained on is not part of it."""
        stage = self._settings.self_train
        return self._recipe(SELF_TRAIN, start, turn=turn, **{name: getattr(stage, name) for name in DECIDES_PAIRS})

    def evaluate(self) -> str:
        """Results on held-out questions, of any checkpoint."""
        evaluate = self._settings.evaluate
        judges = [[judge.identity, judge.deciding_options, judge.sampling] for judge in evaluate.judges]
        more = {"judges": judges, "verifier": evaluate.verifier}
        return self._recipe(EVALUATE, None, **{name: value for name, value in more.items() if value})

    def _judge(self) -> list[Any]:
        """What decides stage 1's verdicts, with `distill.revise`."""
        judge = self._settings.judge
        return [judge.identity, judge.deciding_options, judge.sampling.model_dump(mode="json"),
                self._prompt_hashes["student_attempt"], self._prompt_hashes["judge_verdict"]]  # fmt: skip

    def _recipe(self, stage: str, start: Checkpoint | None, **more: Any) -> str:
        settings = self._settings
        roles = [getattr(settings, role) for role in _ROLES_OF[stage]]
        content = {
            "start": start.version if start else None,
            "domain": settings.domain,
            "models": [[role.identity, role.deciding_options, role.sampling.model_dump(mode="json")] for role in roles],
            "prompts": {name: self._prompt_hashes[name] for name in _PROMPTS_OF.get(stage, ())},
            "reading": READING,
            "more": {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in more.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
