"""What calls cost, and when the run stops for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meteor_agents.errors import BudgetReached, ModelError
from meteor_agents.models import CHARACTERS_PER_TOKEN, ChatMessage, ChatModel, Completion, SamplingParams, Usage
from meteor_agents.store.storable import believable
from meteor_agents.store.store import Counter, Store


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def usd(self, usage: Usage) -> float | None:
        """What a call costs. None when the server did not say how many tokens it used, unless tokens cost nothing."""
        if not (self.input or self.output):
            return 0.0
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


class Budget:
    """Tokens and money of the whole run, over all roles. It stops new calls; those in flight are paid and kept.

    What a call used is what its server reports. Where that is missing or not believable, it is estimated from the length of
    the texts. Estimates, and what failed tries used, stand in no stored call: they are kept as counters
    (`Counter.UNLISTED_TOKENS`), so that a resumed run still counts them.
    """

    def __init__(self, store: Store, *, usd: float | None = None, tokens: int | None = None) -> None:
        spent = store.spent()
        unlisted = {Counter.UNLISTED_TOKENS.value: 0, Counter.UNLISTED_MICRO_USD.value: 0}
        for _, name, value in store.counters():
            if name in unlisted:
                unlisted[name] += value
        self._store = store
        self._tokens = spent.tokens + unlisted[Counter.UNLISTED_TOKENS]
        self._usd = spent.usd + unlisted[Counter.UNLISTED_MICRO_USD] / 1e6
        self._max_usd, self._max_tokens = usd, tokens

    def check(self) -> None:
        """Raises `BudgetReached`, whose text tells what is spent at the time when it is read."""
        if self._reached():
            raise BudgetReached(self._reached)

    def spend(self, role: str, price: Price | None, said: Sequence[ChatMessage], reply: Completion) -> float | None:
        """Count a call that brought a reply; what it costs by its server's own count, None where that is unknown."""
        usage = reply.usage
        self._tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        usd = price.usd(usage) if price else None
        self._usd += usd or 0.0
        if usage.input_tokens is None or usage.output_tokens is None:
            self._estimate(role, price, said, reply)
        return usd

    def lose(self, role: str, price: Price | None, spent: tuple[int | None, int | None]) -> None:
        """Count a try that brought no reply, though its server counted tokens (`ModelError.spent`)."""
        counted = believable(Usage(input_tokens=spent[0], output_tokens=spent[1]))
        whole = Usage(input_tokens=counted.input_tokens or 0, output_tokens=counted.output_tokens or 0)
        self._count_unlisted(role, whole, (price.usd(whole) if price else None) or 0.0)

    def _estimate(self, role: str, price: Price | None, said: Sequence[ChatMessage], reply: Completion) -> None:
        """Count the tokens that the server did not report: a quarter of the characters."""
        read = sum(len(message.content) for message in said) // CHARACTERS_PER_TOKEN
        written = (len(reply.text) + len(reply.reasoning)) // CHARACTERS_PER_TOKEN
        known = reply.usage
        whole = Usage(
            input_tokens=read if known.input_tokens is None else known.input_tokens,
            output_tokens=written if known.output_tokens is None else known.output_tokens,
        )
        missing = Usage(
            input_tokens=read if known.input_tokens is None else 0,
            output_tokens=written if known.output_tokens is None else 0,
        )
        self._count_unlisted(role, missing, (price.usd(whole) if price else None) or 0.0)

    def _count_unlisted(self, role: str, usage: Usage, usd: float) -> None:
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._tokens += tokens
        self._usd += usd
        self._store.count_soon(role, Counter.UNLISTED_TOKENS, tokens)
        if usd:
            self._store.count_soon(role, Counter.UNLISTED_MICRO_USD, round(usd * 1e6))

    def _reached(self) -> str:
        """What is reached, in words; empty while nothing is."""
        if self._max_usd is not None and self._usd >= self._max_usd:
            return f"budget.usd of {self._max_usd:g} reached ({self._usd:.2f} spent); raise it to continue"
        if self._max_tokens is not None and self._tokens >= self._max_tokens:
            return f"budget.tokens of {self._max_tokens} reached ({self._tokens} used); raise it to continue"
        return ""


class Budgeted:
    """A chat model that asks `inner` while the budget lasts, and counts what its failed tries used.

    It stands inside the limits: a call that waited for its turn is not sent after the budget was reached meanwhile, and
    every single try is counted. What a reply used is counted by `RecordedModel`.
    """

    def __init__(self, inner: ChatModel, budget: Budget, role: str, price: Price | None = None) -> None:
        self.inner = inner
        self._budget = budget
        self._role = role
        self._price = price

    @property
    def name(self) -> str:
        """The inner model's name."""
        return self.inner.name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply. Raises what `inner` raises, and `BudgetReached`."""
        self._budget.check()
        try:
            return await self.inner.complete(messages, sampling)
        except ModelError as error:
            if error.spent is not None:
                self._budget.lose(self._role, self._price, error.spent)
            raise

    async def aclose(self) -> None:
        """Close the inner model."""
        await self.inner.aclose()
