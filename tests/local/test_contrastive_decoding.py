"""Contrastive decoding and the scoring of given replies, against what the library's models say by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.abilities import DecodesContrast, ScoresReplies
from meteor_agents.errors import ModelError, RefusedCallError
from meteor_agents.models import ChatMessage, Completion, Contrast, Likelihood, SamplingParams
from tests.local.test_transformers_local import PROMPTS, ask_together, with_model
from tests.support.tiny_model import make_tiny, require_libraries

ALPHA, BETA, TOKENS = 0.05, 0.8, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def weaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smaller than the student, with the same vocabulary."""
    return make_tiny(tmp_path_factory.mktemp("models") / "weaker", seed=1, num_hidden_layers=1)


def contrasting(weaker: Path, alpha: float = ALPHA, beta: float = BETA, max_tokens: int = TOKENS) -> SamplingParams:
    contrast = Contrast(against="weaker", folder=str(weaker), alpha=alpha, beta=beta)
    return SamplingParams(temperature=0, max_tokens=max_tokens, contrast=contrast)


def said(folder: Path, prompts: Sequence[str], sampling: SamplingParams) -> list[Completion]:
    return with_model(folder, lambda model: ask_together(model, list(prompts), sampling))


def opened(folder: Path) -> tuple[Any, Any]:
    require_libraries()
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def by_hand(folder: Path, weaker: Path, prompt: str) -> str:
    """The equation, one prompt at a time and without a cache."""
    (model, tokenizer), (amateur, _) = opened(folder), opened(weaker)
    import torch

    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        while ids.shape[1] < start + TOKENS:
            own, other = model(ids).logits[0, -1], amateur(ids).logits[0, -1]
            implausible = own.softmax(-1) < ALPHA * own.softmax(-1).max()
            token = ((1 + BETA) * own - BETA * other).masked_fill(implausible, -torch.inf).argmax()
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
            if token == tokenizer.eos_token_id:
                break
    return str(tokenizer.decode(ids[0, start:], skip_special_tokens=True))


def test_contrastive_decoding_is_its_equation_and_rows_do_not_change_their_neighbours(
    folder: Path, weaker: Path
) -> None:
    replies = [reply.text for reply in said(folder, PROMPTS, contrasting(weaker))]
    assert replies == [by_hand(folder, weaker, prompt) for prompt in PROMPTS]
    greedy = said(folder, PROMPTS, SamplingParams(temperature=0, max_tokens=TOKENS))
    assert replies != [reply.text for reply in greedy]


def test_in_contrast_with_itself_a_model_is_greedy(folder: Path) -> None:
    greedy = said(folder, PROMPTS, SamplingParams(temperature=0, max_tokens=TOKENS))
    assert said(folder, PROMPTS, contrasting(folder)) == greedy


def test_a_weaker_model_that_is_not_there_or_of_another_family_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedCallError, match="is not a model folder"):
        said(folder, ["a"], contrasting(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model can be read"):
        said(folder, ["a"], contrasting(tmp_path / "empty"))
    foreign = make_tiny(tmp_path / "foreign", vocab_size=60_000)
    with pytest.raises(RefusedCallError, match="vocabulary of 60000 tokens"):
        said(folder, ["a"], contrasting(foreign))


def test_scores_are_the_models_own_log_probabilities_in_any_company(folder: Path) -> None:
    replies = ["yes", "a longer reply, of several words", "no", "z " * 40]
    scoring = SamplingParams(temperature=0, max_tokens=1, score=True)

    def turns(prompt: str, reply: str) -> list[ChatMessage]:
        return [ChatMessage(role="user", content=prompt), ChatMessage(role="assistant", content=reply)]

    async def test(model: Any) -> list[Completion]:
        assert [isinstance(model, ability) for ability in (DecodesContrast, ScoresReplies)] == [True, True]
        asked = [turns(prompt, reply) for prompt in PROMPTS for reply in replies]
        plain = model.complete([ChatMessage(role="user", content="a")], SamplingParams(temperature=0, max_tokens=4))
        *scores, _ = await asyncio.gather(*(model.complete(one, scoring) for one in asked), plain)
        return list(scores)

    found = [Likelihood.read(reply.text, reply.model) for reply in with_model(folder, test)]
    model, tokenizer = opened(folder)
    import torch

    expected: list[tuple[float, int]] = []
    for prompt in PROMPTS:
        for reply in replies:
            start = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            given = tokenizer(start, add_special_tokens=False)["input_ids"]
            own = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.inference_mode():
                logits = model(torch.tensor([given + own])).logits[0, len(given) - 1 : -1].log_softmax(-1)
            expected.append((float(logits[range(len(own)), own].sum()), len(own)))
    assert [one.tokens for one in found] == [tokens for _, tokens in expected]
    assert [one.total for one in found] == pytest.approx([total for total, _ in expected], rel=1e-4)
