"""Contrastive decoding: among the tokens that the model finds plausible, those that it prefers more than a weaker one does.

Li et al., arXiv 2210.15097; in the form of O'Brien and Lewis, arXiv 2309.09117, equation 4:

    tokens with  p_model >= alpha * max p_model  are ranked by  (1 + beta) * logit_model - beta * logit_weaker

transformers ships no such decoding any more: its own (DoLa, contrastive search) are programs that it would download.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers

from meteor_agents.errors import ModelError, RefusedCallError
from meteor_agents.models import Contrast


class Contrasts:
    """The weaker model, loaded when it is first needed and kept until another one is."""

    def __init__(self) -> None:
        self._folder = ""
        self._model: Any = None

    def processors(self, contrast: Contrast | None, model: Any, mask: torch.Tensor) -> Any:
        """What `generate` has to be given for it; nothing without a contrast. `mask` is the prompts' attention mask."""
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
        raise RefusedCallError(f"contrast: {folder} is no model folder on this machine")
    try:
        weaker: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=model.dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"contrast: no model can be read from {folder}: {error}") from error
    own, other = (each.config.get_text_config().vocab_size for each in (model, weaker))
    if own != other:
        raise RefusedCallError(
            f"contrast: {folder} has a vocabulary of {other} tokens and the student one of {own}; "
            "name a model of the same family"
        )
    return weaker.to(model.device).eval().requires_grad_(False)


class _ContrastProcessor(transformers.LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Follows one call of `generate` with the weaker model and a cache of its own."""

    def __init__(self, weaker: Any, mask: torch.Tensor, alpha: float, beta: float) -> None:
        self._weaker = weaker
        self._mask = mask
        self._alpha, self._beta = alpha, beta
        self._cache: Any = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, tokens so far), (rows, vocabulary) -> scores of the next token, (rows, vocabulary)."""
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
        output = self._weaker(
            input_ids=new,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1].float()  # type: ignore[no-any-return]  # transformers is not typed
