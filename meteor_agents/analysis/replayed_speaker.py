"""A speaker that repeats a role's recorded replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from meteor_agents.analysis.trace_differences import changed, first_difference
from meteor_agents.calls.keys import call_key
from meteor_agents.errors import UnrecordedCallError
from meteor_agents.models import ChatMessage, Completion, Occasion, SamplingParams
from meteor_agents.pipeline.cast import RoleModel
from meteor_agents.store.records import Records


class ReplayedSpeaker:
    """A role's model that repeats its recorded replies, found by the same keys."""

    def __init__(self, model: RoleModel, records: Records) -> None:
        self._role = model.role
        self._identity = model.settings.identity
        self._options = model.settings.deciding_options
        self._records = records
        self._spoke: Sequence[str] = ()
        self._asked = 0

    def begin(self, weights: Sequence[str]) -> None:
        """Begin a conversation. `weights` are the versions that replied, call by call; empty without training."""
        self._spoke, self._asked = weights, 0

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        """The recorded reply. Raises `UnrecordedCallError`, which says what differs from the calls that were recorded."""
        said = [(message.role, message.content) for message in messages]
        key = call_key(self._role, self._identity, said, sampling, occasion.tries, occasion.again, self._options)
        weights = (*self._spoke[self._asked : self._asked + 1], *self._spoke, self._identity)
        self._asked += 1
        stored = self._records.find_call(key, weights, sampling.max_tokens)
        if stored is None:
            raise UnrecordedCallError(self._why_not(messages, sampling, occasion))
        return replace(stored, reused=True)

    def _why_not(self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        where = f"question {occasion.question_id!r}, {occasion.stage}, try {occasion.tries}"
        nearest = self._records.nearest_call(self._role, occasion.stage, occasion.question_id, occasion.tries)
        if nearest is None:
            return f"{self._role}: no reply is recorded ({where}), nor any other call about this question in this stage"
        request, tries, weights = nearest
        recorded = json.loads(request)
        now = [message.model_dump() for message in messages]
        if recorded["messages"] != now:
            what = first_difference(recorded["messages"], now)
        elif other := changed(recorded["sampling"], sampling.model_dump(mode="json")):
            what = f"sampling: {other}"
        elif tries != occasion.tries:
            what = f"the call recorded is that of try {tries}"
        else:
            what = f"it was asked of the model or weights {weights!r}, or with other options of its backend"
        return f"{self._role}: no reply is recorded ({where}); {what}"
