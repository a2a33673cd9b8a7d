"""Useful tokens a second: the transformers backend beside transformers' own `generate`, on replies of mixed lengths.

    python benchmarks/bench_generate.py                  all sides; `make bench-generate`
    python benchmarks/bench_generate.py fixed-4 ours-16  some of them
    python benchmarks/bench_generate.py --dtype bfloat16 --requests 24

Every side decodes the same prompts greedily with the same real model (SmolLM2-135M-Instruct) in the same number format, in a
process of its own. A reply ends at the model's end of turn, or at the request's own `max_tokens`; tokens that a batch
decodes beyond a row's end are not useful and not counted. `generate` has one limit for a batch: the largest in it. CPU is
the process's, user and system, all threads, from the first prompt to the last reply. Memory is the peak of resident memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

MODEL = "smollm2-135m"
TOPICS = (
    "glaciers", "the printing press", "binary search", "honey bees", "tides", "inflation", "sourdough bread", "vaccines",
    "volcanoes", "the violin", "relational databases", "photosynthesis", "chess openings", "lighthouses", "coral reefs",
    "steam engines",
)  # fmt: skip
TASKS = (
    "In one short sentence, what are {topic}?",
    "Explain {topic} to a curious twelve-year-old.",
    "Write a list of facts about {topic}, then a story in which {topic} matter.\n\nKeep in mind: {notes}",
)
MAX_TOKENS = (16, 32, 48, 64, 96, 128, 192, 256)


class Request(NamedTuple):
    prompt: str
    max_tokens: int


class Cost(NamedTuple):
    """What one side took."""

    useful_tokens: int
    wall_s: float
    cpu_s: float
    peak_gb: float


@dataclass(frozen=True)
class Side:
    name: str
    what: str
    batch: int
    by_length: bool = False
    ours: bool = False
    share: int = 1
    """Decode every n-th request only: a slow side need not decode all of them."""


SIDES = (
    Side("one", "one request at a time", 1, share=4),
    Side("fixed-4", "batches of 4, in order of arrival", 4),
    Side("sorted-16", "batches of 16, sorted by length of prompt", 16, by_length=True),
    Side("sorted-48", "batches of 48, sorted by length of prompt", 48, by_length=True),
    Side("ours-16", "the transformers backend, max_batch 16", 16, ours=True),
    Side("ours-48", "the transformers backend, max_batch 48", 48, ours=True),
)


def requests(count: int, seed: int = 0) -> list[Request]:
    """Prompts of 20 to some 300 tokens, replies of at most 16 to 256, unrelated to each other."""
    numbers = random.Random(seed)
    made = []
    for i in range(count):
        topic = TOPICS[i % len(TOPICS)]
        notes = " ".join(f"point {n} concerns {numbers.choice(TOPICS)};" for n in range(numbers.randrange(2, 24)))
        made.append(Request(numbers.choice(TASKS).format(topic=topic, notes=notes), numbers.choice(MAX_TOKENS)))
    return made


def decode_ours(side: Side, asked: Sequence[Request], dtype: str) -> Cost:
    from meteor_agents.backends.local.model import TransformersModel
    from meteor_agents.models import ChatMessage, SamplingParams

    model = TransformersModel(MODEL, device="cpu", dtype=dtype, max_batch=side.batch)

    async def one(request: Request) -> int:
        sampling = SamplingParams(temperature=0, max_tokens=request.max_tokens)
        reply = await model.complete([ChatMessage(role="user", content=request.prompt)], sampling)
        return reply.usage.output_tokens or 0

    async def all_of_them() -> Cost:
        await one(Request("Hello.", 2))
        cost = await measured(lambda: asyncio.gather(*map(one, asked)))
        await model.aclose()
        return cost

    return asyncio.run(all_of_them())


async def measured(work: Callable[[], Any]) -> Cost:
    started, cpu = time.monotonic(), time.process_time()
    tokens = sum(await work())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Cost(tokens, time.monotonic() - started, time.process_time() - cpu, peak)


def decode_by_generate(side: Side, asked: Sequence[Request], dtype: str) -> Cost:
    import torch
    import transformers

    from meteor_agents.backends.local.catalog import resolve
    from meteor_agents.backends.local.chat_template import end_of_turn_id, prompt_ids
    from meteor_agents.models import ChatMessage

    folder = resolve(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    end = end_of_turn_id(tokenizer)
    model.generation_config = transformers.GenerationConfig(eos_token_id=end, pad_token_id=end)

    def generate(batch: Sequence[Request]) -> int:
        ids = [prompt_ids(tokenizer, [ChatMessage(role="user", content=request.prompt)]) for request in batch]
        padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        limit = max(request.max_tokens for request in batch)
        with torch.inference_mode():
            replies = model.generate(**padded, do_sample=False, max_new_tokens=limit)
        new = replies[:, padded["input_ids"].shape[1] :].tolist()
        return sum(useful(row[: request.max_tokens], end) for row, request in zip(new, batch, strict=True))

    async def work() -> list[int]:
        ordered = sorted(asked, key=lambda request: len(request.prompt)) if side.by_length else asked
        return [generate(ordered[at : at + side.batch]) for at in range(0, len(ordered), side.batch)]

    generate([Request("Hello.", 2)])
    return asyncio.run(measured(work))


def useful(tokens: list[int], end: int) -> int:
    return tokens.index(end) + 1 if end in tokens else len(tokens)


def run_side(side: Side, count: int, dtype: str) -> None:
    asked = requests(count)[:: side.share]
    cost = (decode_ours if side.ours else decode_by_generate)(side, asked, dtype)
    print(json.dumps(cost._asdict()))


def compare(sides: Sequence[Side], count: int, dtype: str) -> None:
    print(f"{count} requests, {MODEL}, {dtype}, greedy; prompts and replies of mixed lengths\n")
    print(f"{'':44}{'useful':>8}{'':>9}{'tokens':>9}{'CPU ms':>9}{'x fixed':>9}{'x sorted':>9}{'peak':>7}")
    print(f"{'':44}{'tokens':>8}{'wall s':>9}{'a second':>9}{'a token':>9}{'of 4':>9}{'of equal':>9}{'GB':>7}")
    speeds: dict[str, float] = {}
    for side in sides:
        command = [sys.executable, __file__, "--side", json.dumps(asdict(side)), "--requests", str(count)]
        done = subprocess.run([*command, "--dtype", dtype], stdout=subprocess.PIPE, text=True, check=True)
        cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
        speeds[side.name] = cost.useful_tokens / cost.wall_s
        ratios = [
            f"{speeds[side.name] / speeds[other]:.2f}" if other in speeds else "-"
            for other in ("fixed-4", f"sorted-{side.batch}")
        ]
        print(
            f"{side.what:44}{cost.useful_tokens:8,}{cost.wall_s:9.1f}{speeds[side.name]:9.1f}"
            f"{1000 * cost.cpu_s / cost.useful_tokens:9.1f}{ratios[0]:>9}{ratios[1]:>9}{cost.peak_gb:7.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="*", metavar="SIDE", help=", ".join(side.name for side in SIDES))
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        run_side(Side(**json.loads(given.side)), given.requests, given.dtype)
        return
    names = {side.name: side for side in SIDES}
    if unknown := [name for name in given.sides if name not in names]:
        parser.error(f"no side {unknown[0]!r}; known: {', '.join(names)}")
    compare([names[name] for name in given.sides] or SIDES, given.requests, given.dtype)


if __name__ == "__main__":
    main()
