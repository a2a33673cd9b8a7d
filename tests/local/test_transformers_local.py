from __future__ import annotations

import asyncio
import importlib.util
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from meteor_agents.abilities import DecodesBeams, FreesMemory, LoadsWeights
from meteor_agents.errors import ModelError, RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams
from tests.support.tiny_model import make_tiny, require_libraries

if TYPE_CHECKING:
    from meteor_agents.backends.local.model import TransformersModel

T = TypeVar("T")
GREEDY = SamplingParams(temperature=0, max_tokens=24)
PROMPTS = ["a", "why is the sky blue at noon", "x " * 60, "name three rivers", "y " * 25, "tell me about tables"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same shapes."""
    return make_tiny(tmp_path_factory.mktemp("models") / "other", seed=1)


def with_model(folder: Path, test: Callable[[TransformersModel], Coroutine[Any, Any, T]], **options: Any) -> T:
    from meteor_agents.backends.local.model import TransformersModel

    async def run() -> T:
        model = TransformersModel(folder, "v1", device="cpu", dtype="float32", **options)
        try:
            return await test(model)
        finally:
            await model.aclose()

    return asyncio.run(run())


async def ask(model: TransformersModel, prompt: str, sampling: SamplingParams = GREEDY) -> Completion:
    return await model.complete([ChatMessage(role="user", content=prompt)], sampling)


async def ask_together(
    model: TransformersModel, prompts: list[str], sampling: SamplingParams = GREEDY
) -> list[Completion]:
    return list(await asyncio.gather(*(ask(model, prompt, sampling) for prompt in prompts)))


async def ask_in_turn(
    model: TransformersModel, prompts: list[str], sampling: SamplingParams = GREEDY
) -> list[Completion]:
    return [await ask(model, prompt, sampling) for prompt in prompts]


def reference(folder: Path, prompt: str, **decoding: Any) -> str:
    """The library's own `generate` on one prompt."""
    require_libraries()
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        decoded = model.generate(**ids, do_sample=False, max_new_tokens=24, **decoding)
    return str(tokenizer.decode(decoded[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_together_equals_one_at_a_time_equals_the_library(folder: Path) -> None:
    async def test(model: TransformersModel) -> tuple[list[Completion], list[Completion]]:
        return await ask_together(model, PROMPTS), await ask_in_turn(model, PROMPTS)

    together, in_turn = with_model(folder, test)
    assert together == in_turn
    assert [completion.text for completion in together] == [reference(folder, prompt) for prompt in PROMPTS]
    assert len({completion.text for completion in together}) > 3, "the tiny model tells prompts apart"


def test_rows_that_come_and_go_do_not_change_their_neighbours(folder: Path) -> None:
    shuffled = random.Random(0)
    asked = [(f"{prompt} {n}", 1 + shuffled.randrange(40)) for n in range(5) for prompt in PROMPTS]

    async def test(model: TransformersModel) -> None:
        async def one(prompt: str, max_tokens: int) -> Completion:
            await asyncio.sleep(shuffled.random() * 0.2)
            return await ask(model, prompt, SamplingParams(temperature=0, max_tokens=max_tokens))

        together = await asyncio.gather(*(one(*question) for question in asked))
        assert together == [await one(*question) for question in asked]

    with_model(folder, test, max_batch=7)


def test_greedy_and_sampled_requests_share_a_batch(folder: Path) -> None:
    hot = SamplingParams(temperature=1.5, top_p=0.95, max_tokens=24, seed=7)

    async def test(model: TransformersModel) -> None:
        together = await asyncio.gather(ask(model, "a"), ask(model, "a", hot), ask(model, "a"), ask(model, "b", hot))
        alone = [await ask(model, "a"), await ask(model, "a", hot), await ask(model, "a"), await ask(model, "b", hot)]
        assert list(together) == alone
        assert together[0].text != together[1].text

    with_model(folder, test)


def test_unseeded_samples_differ(folder: Path) -> None:
    hot = SamplingParams(temperature=2, top_p=1, max_tokens=16)
    replies = with_model(folder, lambda model: ask_together(model, ["a"] * 4, hot))
    assert len({reply.text for reply in replies}) == 4


def test_beams_are_the_librarys_beams(folder: Path) -> None:
    sampling = SamplingParams(beams=4, max_tokens=24)
    replies = with_model(folder, lambda model: ask_together(model, PROMPTS, sampling), max_batch=8)
    assert [reply.text for reply in replies] == [reference(folder, prompt, num_beams=4) for prompt in PROMPTS]


def test_beams_and_greedy_requests_may_be_mixed(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        wide = SamplingParams(beams=3, max_tokens=12)
        mixed = [(prompt, wide if n % 2 else GREEDY) for n, prompt in enumerate(PROMPTS)]
        together = await asyncio.gather(*(ask(model, *question) for question in mixed))
        assert together == [await ask(model, *question) for question in mixed]

    with_model(folder, test, max_batch=6)


def test_more_beams_than_fit_are_refused(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        assert isinstance(model, DecodesBeams)
        assert model.max_beams == 4
        with pytest.raises(RefusedCallError, match="5 beams do not fit"):
            await ask(model, "a", SamplingParams(beams=5))

    with_model(folder, test, max_batch=4)


@pytest.mark.parametrize("beams", [1, 2])
def test_reply_is_cut_at_its_own_token_limit(folder: Path, beams: int) -> None:
    async def test(model: TransformersModel) -> list[Completion]:
        limits = [SamplingParams(temperature=0, max_tokens=n, beams=beams) for n in (1, 5, 9)]
        return list(await asyncio.gather(*(ask(model, "why is the sky blue at noon", limit) for limit in limits)))

    replies = with_model(folder, test)
    assert [reply.usage.output_tokens for reply in replies] == [1, 5, 9]
    assert {reply.finish_reason for reply in replies} == {FinishReason.CUT}


def test_end_of_turn_ends_a_reply_and_is_counted(folder: Path, tmp_path: Path) -> None:
    """A model whose end token is one that it says soon."""
    import json

    ended = tmp_path / "ended"
    shutil.copytree(folder, ended)
    whole = with_model(folder, lambda model: ask(model, PROMPTS[1]))
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    spoken = tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    settings = {"eos_token_id": [2, spoken[3]], "pad_token_id": 2}
    (ended / "generation_config.json").write_text(json.dumps(settings))
    reply = with_model(ended, lambda model: ask(model, PROMPTS[1]))
    first = spoken.index(spoken[3])
    assert reply.text == tokenizer.decode(spoken[:first])
    assert reply.finish_reason is FinishReason.COMPLETE
    assert reply.usage.output_tokens == first + 1


@pytest.mark.parametrize("beams", [1, 2])
def test_stop_string_ends_a_reply_and_is_left_out(folder: Path, beams: int) -> None:
    async def test(model: TransformersModel) -> None:
        plain = SamplingParams(temperature=0, max_tokens=24, beams=beams)
        whole = await ask(model, PROMPTS[1], plain)
        stop = whole.text[8:12]
        cut, uncut = await asyncio.gather(
            ask(model, PROMPTS[1], plain.model_copy(update={"stop": ("never said", stop)})),
            ask(model, PROMPTS[1], plain),
        )
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.finish_reason is FinishReason.COMPLETE
        assert uncut == whole
        if beams == 1:
            assert (cut.usage.output_tokens or 0) < (whole.usage.output_tokens or 0)

    with_model(folder, test)


def test_prompt_longer_than_the_context_is_refused_with_both_lengths(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        long, short = await asyncio.gather(ask(model, "word " * 600), ask(model, "a"), return_exceptions=True)
        assert isinstance(short, Completion)
        assert isinstance(long, RefusedCallError)
        assert "the prompt has 6" in str(long)
        assert "reads at most 512" in str(long)

    with_model(folder, test)


def test_reply_ends_where_the_context_ends(folder: Path) -> None:
    reply = with_model(folder, lambda m: ask(m, "word " * 450, SamplingParams(temperature=0, max_tokens=500)))
    assert (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0) == 512
    assert reply.finish_reason is FinishReason.CUT


def test_event_loop_stays_free_while_the_model_decodes(folder: Path) -> None:
    async def test(model: TransformersModel) -> int:
        ticks = 0
        task = asyncio.create_task(ask(model, "a", SamplingParams(temperature=0, max_tokens=200)))
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert with_model(folder, test) > 10


def test_new_weights_change_replies_and_their_version(folder: Path, other: Path) -> None:
    async def test(model: TransformersModel) -> None:
        assert isinstance(model, LoadsWeights)
        before = await ask(model, "a")
        in_flight = asyncio.create_task(ask(model, "a"))
        await asyncio.sleep(0)
        await model.load_weights(other, "v2")
        after = await ask(model, "a")
        assert (before.weights, after.weights, model.weights) == ("v1", "v2", "v2")
        assert await in_flight == before, "a call in flight ends with the weights it started with"
        assert after.text == reference(other, "a") != before.text
        await model.load_weights(folder, "v3")
        assert (await ask(model, "a")).text == before.text

    with_model(folder, test)


@pytest.mark.parametrize("tied", [True, False])
def test_memory_that_was_freed_comes_back_with_the_same_weights(tmp_path: Path, tied: bool) -> None:
    folder = make_tiny(tmp_path / "model", tie_word_embeddings=tied)
    other = make_tiny(tmp_path / "other", tie_word_embeddings=tied, seed=1)

    async def test(model: TransformersModel) -> None:
        assert isinstance(model, FreesMemory)

        def held() -> int:
            loaded = model._worker.loaded
            assert loaded is not None
            return sum(weight.untyped_storage().nbytes() for weight in loaded.module.state_dict().values())

        before, size = await ask_together(model, PROMPTS), held()
        in_flight = asyncio.create_task(ask(model, PROMPTS[0]))
        await asyncio.sleep(0)
        await model.free_memory()
        await model.free_memory()
        assert (await in_flight, held()) == (before[0], 0)
        assert (await ask_together(model, PROMPTS), held()) == (before, size)
        await model.free_memory()
        await model.load_weights(other, "v2")
        assert held() == size
        assert (await ask(model, "a")).text == reference(other, "a")
        await model.free_memory()
        assert (await ask(model, "a")).text == reference(other, "a"), "the newest weights come back"

    with_model(folder, test)


def test_weights_whose_folder_is_gone_are_said_and_read_when_it_is_back(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")

    async def test(model: TransformersModel) -> None:
        before = await ask(model, "a")
        await model.free_memory()
        folder.rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(ModelError, match="no weights can be read from"):
                await ask(model, "a")
        (tmp_path / "away").rename(folder)
        assert await ask(model, "a") == before

    with_model(folder, test)


FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def test_quantised_loading_works_or_names_the_package_that_it_needs(folder: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(SettingsError, match=r"needs a package that is not installed: .*bitsandbytes"):
            with_model(folder, lambda model: ask(model, "a"), quantization=FOUR_BITS)
        return

    async def test(model: TransformersModel) -> None:
        assert (await ask(model, "a")).text
        await model.free_memory()
        assert (await ask(model, "a")).text

    with_model(folder, test, quantization=FOUR_BITS)


def test_a_student_that_is_trained_is_not_quantised(folder: Path) -> None:
    from meteor_agents.backends.base_model import check_trainable
    from meteor_agents.settings.roles import StudentSettings

    given = {"backend": "transformers", "model": str(folder), "quantization": FOUR_BITS}
    with pytest.raises(SettingsError, match=r"student\.quantization"):
        check_trainable(StudentSettings.model_validate(given))


def missing_folder(path: Path, other: Path) -> None:
    """Nothing is written."""


def other_shapes(path: Path, other: Path) -> None:
    make_tiny(path, hidden_size=32, seed=1)


def fewer_layers(path: Path, other: Path) -> None:
    make_tiny(path, num_hidden_layers=1, seed=1)


def more_layers(path: Path, other: Path) -> None:
    make_tiny(path, num_hidden_layers=3, seed=1)


def truncated_file(path: Path, other: Path) -> None:
    shutil.copytree(other, path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize("spoil", [missing_folder, other_shapes, fewer_layers, more_layers, truncated_file])
def test_unusable_weights_keep_the_old_ones(
    folder: Path, other: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    spoil(tmp_path / "bad", other)

    async def test(model: TransformersModel) -> None:
        before = await ask(model, "a")
        with pytest.raises(ModelError, match="bad"):
            await model.load_weights(tmp_path / "bad", "v2")
        assert await ask(model, "a") == before
        assert model.weights == "v1"

    with_model(folder, test)


def test_untied_weights_are_loaded_too(tmp_path: Path) -> None:
    first = make_tiny(tmp_path / "first", tie_word_embeddings=False)
    second = make_tiny(tmp_path / "second", tie_word_embeddings=False, seed=1)

    async def test(model: TransformersModel) -> str:
        await model.load_weights(second, "v2")
        return (await ask(model, "a")).text

    assert with_model(first, test) == reference(second, "a")


def test_cancelled_requests_leave_the_queue(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        endless = SamplingParams(temperature=0, max_tokens=400)
        tasks = [asyncio.create_task(ask(model, "a", endless)) for _ in range(6)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert Counter(map(type, results)) == {asyncio.CancelledError: 6}
        async with asyncio.timeout(5):
            assert (await ask(model, "a")).text

    with_model(folder, test, max_batch=2)


def test_cancelled_beam_search_ends_early(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        task = asyncio.create_task(ask(model, "a", SamplingParams(beams=4, max_tokens=400)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(model, "a")).text

    with_model(folder, test)


@pytest.mark.parametrize("beams", [1, 2])
def test_batch_that_does_not_fit_into_memory_is_halved(folder: Path, beams: int) -> None:
    import torch

    sampling = SamplingParams(temperature=0, max_tokens=24, beams=beams)
    sizes: list[int] = []

    def small_memory(module: Any, args: Any, arguments: dict[str, Any]) -> None:
        sizes.append(len(arguments["input_ids"]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("too many rows")

    async def test(model: TransformersModel) -> None:
        wanted = await ask_in_turn(model, PROMPTS, sampling)
        loaded = model._worker.loaded
        assert loaded is not None
        loaded.module.register_forward_pre_hook(small_memory, with_kwargs=True)
        assert await ask_together(model, PROMPTS, sampling) == wanted

    with_model(folder, test)
    assert max(sizes) > 4 >= sizes[-1]


def test_failure_inside_the_model_reaches_the_callers_only(folder: Path) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a broken layer")

    async def test(model: TransformersModel) -> None:
        loaded = model._worker.loaded
        assert loaded is not None
        hook = loaded.module.register_forward_pre_hook(broken)
        results = await asyncio.gather(*(ask(model, prompt) for prompt in PROMPTS), return_exceptions=True)
        assert all(isinstance(result, ModelError) and "a broken layer" in str(result) for result in results)
        hook.remove()
        assert (await ask(model, "a")).text

    with_model(folder, test)


def test_closed_model_has_no_thread_and_refuses(folder: Path) -> None:
    async def test(model: TransformersModel) -> None:
        await ask(model, "a")
        await model.aclose()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("meteor ")]
        with pytest.raises(ModelError, match="is closed"):
            await ask(model, "a")

    with_model(folder, test)


def no_folder(path: Path) -> None:
    """Nothing is there."""


def empty_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [no_folder, empty_folder])
def test_no_model_is_a_setting_error_that_says_what_to_do(tmp_path: Path, make: Callable[[Path], None]) -> None:
    require_libraries()
    from meteor_agents.backends.local.model import TransformersModel

    make(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"nothing.*meteor models fetch smollm2-135m"):
        TransformersModel(tmp_path / "nothing")


def test_weights_that_lack_a_layer_are_a_setting_error(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from meteor_agents.backends.local.model import TransformersModel

    shutil.copytree(folder, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"lack the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        TransformersModel(tmp_path / "part")


@pytest.fixture(scope="module")
def draws() -> Callable[[list[float], float], Counter[int]]:
    require_libraries()
    import torch

    from meteor_agents.backends.local.decoding.sampling import sample_nucleus

    def many(chances: list[float], top_p: float) -> Counter[int]:
        rows = 4000
        numbers = [random.Random(seed).random for seed in range(rows)]
        return Counter(sample_nucleus(torch.tensor([chances] * rows), [top_p] * rows, numbers).tolist())

    return many


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [
        (1.0, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        (0.75, {1: 4 / 9, 3: 3 / 9, 2: 2 / 9}),
        (0.5, {1: 4 / 7, 3: 3 / 7}),
        (0.01, {1: 1.0}),
    ],
)
def test_sampling_has_the_distribution_of_the_nucleus(
    draws: Callable[[list[float], float], Counter[int]], top_p: float, nucleus: dict[int, float]
) -> None:
    counted = draws([0.1, 0.4, 0.2, 0.3], top_p)
    assert counted.keys() == nucleus.keys()
    assert {token: counted[token] / 4000 for token in nucleus} == pytest.approx(nucleus, abs=0.03)
