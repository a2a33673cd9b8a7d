"""Checkpoints on disk: which ones a run still needs, and how the others are removed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from meteor_agents.method.conversations import REFINE, SELF_TRAIN
from meteor_agents.pipeline.recipes import FINETUNE
from meteor_agents.store.records import Records
from meteor_agents.store.stage_records import MadeCheckpoint

BASE = "base"
LINEAGE = (BASE, FINETUNE, REFINE, SELF_TRAIN)
"""Where checkpoints come from, in order."""

_OURS = re.compile(r"(finetune|refine-\d+|self-train-\d+)-[0-9a-f]{8}")
_OPTIMIZER = re.compile(rf"({_OURS.pattern})\.optimizer")
_GOING = ".removed-"


def needed(records: Records) -> set[str]:
    """Versions that a resumed run starts from or that a stage ended with.

    From stage 2 these are the lineage's checkpoint and each recipe's last and best promoted ones; no other is trained on or
    served again. The fine-tune and every turn of stage 3 may be the start of another stage or turn.
    """
    kept = set(records.lineage().values())
    last: dict[str, str] = {}
    best: dict[str, MadeCheckpoint] = {}
    for made in records.checkpoints():
        if made.promoted and made.stage == REFINE:
            last[made.recipe] = made.checkpoint
            if made.recipe not in best or (made.right or 0) >= (best[made.recipe].right or 0):
                best[made.recipe] = made
        elif made.promoted:
            kept.add(made.checkpoint)
    return kept | set(last.values()) | {made.checkpoint for made in best.values()}


def prune(folder: Path, keep: Collection[str], newest: int) -> list[str]:
    """Delete all checkpoints in `folder` but `keep` and the newest N; return the names of what was deleted, sorted.

    An optimizer's state is only needed for further training, so it goes unless its checkpoint is in `keep`. A folder is
    renamed before it is emptied, so a name never stands for half a checkpoint. Folders that a run did not name stay.
    """
    for half in folder.glob(f"{_GOING}*"):
        shutil.rmtree(half, ignore_errors=True)
    ours = [path for path in folder.iterdir() if path.is_dir() and _OURS.fullmatch(path.name)]
    ours.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    stays = {*keep, *(path.name for path in ours[:newest])}
    gone = [path for path in ours if path.name not in stays]
    states = {path: found[1] for path in folder.iterdir() if (found := _OPTIMIZER.fullmatch(path.name))}
    for path in [*gone, *(state for state, version in states.items() if version not in keep)]:
        going = path.with_name(f"{_GOING}{path.name}")
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    return sorted(path.name for path in gone)
