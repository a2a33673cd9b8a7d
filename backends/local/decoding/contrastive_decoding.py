"""Contrastive decoding: of the tokens that the model finds plausible, take what it prefers more than a weaker model does.

Li et al., arXiv 2210.15097, in the form of O'Brien and Lewis, arXiv 2309.09117, equation 4:

    tokens with  p_model >= alpha * max p_model  are ranked by  (1 + beta) * logit_model - beta * logit_weaker

This is ours because transformers no longer ships such decoding: DoLa and contrastive search are now code that it
downloads from the hub.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers

from meteor_agents.backends.local.decoding.loaded_model import next_logits
from meteor_agents.errors import ModelError, RefusedCallError
from meteor_agents.models import Contrast


class Contrasts:
    """The weaker model. It is loaded when it is first needed and kept until a call names another one."""

    def __init__(self) -> None:
        self._folder = ""
        self._model: Any = None

    def processors(self, contrast: Contrast | None, model: Any, mask: torch.Tensor) -> Any:
        """The logits processors that `generate` needs: one with a contrast, none without.

        `mask` is the attention mask of the padded prompts, (rows, longest prompt). Raises `RefusedCallError` when the
        weaker model is missing or has another vocabulary, and `ModelError` when it cannot be read.
        """
        found = transformers.LogitsProcessorList()
        if contrast is not None:
            found.append(_ContrastProcessor(self._weaker(contrast.folder, model), mask, contrast.alpha, contrast.beta))
        return found

    def _weaker(self, folder: str, model: Any) -> Any:
        if self._folder != folder:
            self._model, self._folder = _load(Path(folder), model), folder
        return self._model


def _load(folder: Path, model: Any) -> Any:
    if not folder.is_dir():
        raise RefusedCallError(f"contrast: {folder} is not a model folder on this machine")
    try:
        weaker: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=model.dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"contrast: no model can be read from {folder}: {error}") from error
    own, other = (each.config.get_text_config().vocab_size for each in (model, weaker))
    if own != other:
        raise RefusedCallError(
            f"contrast: {folder} has a vocabulary of {other} tokens and the model {own}; "
            "name a model of the same family"
        )
    return weaker.to(model.device).eval().requires_grad_(False)


class _ContrastProcessor(transformers.LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Runs the weaker model beside one call of `generate`, with a cache of its own."""

    def __init__(self, weaker: Any, mask: torch.Tensor, alpha: float, beta: float) -> None:
        self._weaker = weaker
        self._mask = mask
        self._alpha, self._beta = alpha, beta
        self._cache: Any = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Contrasted scores of the next token, (rows, vocabulary). `input_ids` is (rows, tokens so far)."""
        weaker = self._follow(input_ids)
        scores = scores.float()
        plausible = scores >= scores.max(-1, keepdim=True).values + math.log(self._alpha)
        contrasted = (1 + self._beta) * scores - self._beta * weaker
        return contrasted.masked_fill(~plausible, -math.inf)

    def _follow(self, input_ids: torch.Tensor) -> torch.Tensor:
        new = input_ids if self._cache is None else input_ids[:, -1:]
        missing = input_ids.shape[1] - self._mask.shape[1]
        if missing:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(input_ids), missing)], dim=1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
        logits, self._cache = next_logits(self._weaker, new, self._mask, positions, self._cache)
        return logits
