from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vllms
from residency import models
from residency.decoding import tried
from residency.decoding.batch import PLAIN
from residency.decoding.choosing import Choosing
from residency.decoding.chosen import Chosen
from residency.decoding.text import Pieces
from residency.recipe import Recipe
from residency.serve.cores import Apart, Core, Together
from residency.serve.engine import Engine, Event, Full, Job, Worker
from serving import until


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> Chosen:
    recipe = Recipe.parse({"name": "x", "data": {"source": "clinic"}, "model": {"base": str(llama_folder)}})
    prompt = models.load_prompt(recipe)
    return Chosen("x", models.load_base(recipe.model), prompt, Choosing(), 256)


@pytest.fixture(params=["together", "apart", "vllm"])
def core(request: pytest.FixtureRequest, model: Chosen) -> Core:
    makers = {"together": together, "apart": Apart, "vllm": vllms.core}
    made: Core = makers[request.param](model)
    return made


def together(model: Chosen, rows: int = 2) -> Together:
    return Together(tried.body(model.model, list(range(20))), model, rows, [])


def job(model: Chosen, text: str = "A fever", limit: int = 8, choosing: Choosing = PLAIN) -> tuple[Job, list[Event]]:
    heard: list[Event] = []
    ids = model.prompt.tokenizer(text)["input_ids"]
    return Job(ids, limit, choosing, Pieces(model.prompt.tokenizer), heard.append), heard


@pytest.fixture
def working() -> Iterator[Any]:
    """Starts the thread of engines, and stops it after the test."""
    started: list[Worker] = []

    def start(*engines: Engine) -> Worker:
        started.append(Worker(engines))
        started[-1].start()
        return started[-1]

    yield start
    for worker in started:
        worker.stop()
        assert not worker.alive


def test_every_token_is_heard_and_the_last_says_why_it_ended(model: Chosen, core: Core, working: Any) -> None:
    engine = Engine(core, queue=8)
    working(engine)
    jobs = [job(model, text, limit) for text, limit in (("A fever", 8), ("In a child", 3), ("x", 5))]
    engine.submit([one for one, _ in jobs])
    until(lambda: not engine.busy)
    for (_, heard), limit in zip(jobs, (8, 3, 5), strict=True):
        assert [event.tokens for event in heard] == list(range(1, limit + 1))
        assert [event.ended for event in heard] == [""] * (limit - 1) + ["length"]
    assert engine.tokens == 16


def test_both_ways_give_the_same_answers(model: Chosen) -> None:
    texts = []
    for core in (together(model), Apart(model)):
        engine = Engine(core, queue=8)
        worker = Worker([engine])
        worker.start()
        jobs = [job(model, text, 8, Choosing(penalty)) for text in ("A fever", "In a child") for penalty in (1.0, 3.0)]
        engine.submit([one for one, _ in jobs])
        until(lambda engine=engine: not engine.busy)  # type: ignore[misc]
        worker.stop()
        texts.append(["".join(event.text for event in heard) for _, heard in jobs])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_a_seed_draws_the_same_in_either_way_of_its_own(model: Chosen, core: Core, working: Any) -> None:
    engine = Engine(core, queue=8)
    working(engine)
    jobs = [job(model, choosing=Choosing(temperature=1.0, seed=seed)) for seed in ("3/0", "3/0", "3/1", None)]
    engine.submit([one for one, _ in jobs])
    until(lambda: not engine.busy)
    texts = ["".join(event.text for event in heard) for _, heard in jobs]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_more_than_may_wait_is_refused_as_a_whole(model: Chosen) -> None:
    engine = Engine(together(model), queue=1)
    engine.submit([job(model)[0] for _ in range(2)])
    with pytest.raises(Full):
        engine.submit([job(model)[0] for _ in range(2)])
    assert len(engine.waiting) == 2
    engine.submit([job(model)[0]])


def test_one_that_waits_leaves_at_once_and_one_that_runs_before_its_next_token(model: Chosen) -> None:
    engine = Engine(together(model, rows=1), queue=8)
    (first, heard), (second, other) = job(model, limit=100), job(model)
    engine.submit([first, second])
    engine.turn()
    engine.cancel([second])
    assert other == [Event("", 0, "gone")] and not engine.waiting
    engine.cancel([first])
    engine.turn()
    assert heard[-1].ended == "gone" and not engine.busy


def test_a_fault_of_the_model_ends_what_runs_and_nothing_else(model: Chosen, core: Core, working: Any) -> None:
    engine = Engine(core, queue=8)
    fail = threading.Event()

    def hook(_module: Any, inputs: Any) -> None:
        if fail.is_set():
            fail.clear()
            raise RuntimeError("a fault for the test")

    handle = model.model.get_input_embeddings().register_forward_pre_hook(hook)
    try:
        worker = working(engine)
        first, heard = job(model, limit=200)
        engine.submit([first])
        until(lambda: heard)
        fail.set()
        until(lambda: heard[-1].ended)
        assert heard[-1].ended == "fault" and worker.alive
        again, other = job(model)
        engine.submit([again])
        until(lambda: other and other[-1].ended)
        assert other[-1].ended == "length"
    finally:
        handle.remove()


def test_a_prompt_that_breaks_the_pass_takes_none_of_its_neighbours_with_it(model: Chosen) -> None:
    engine = Engine(together(model, rows=3), queue=8)
    (good, heard), (bad, broken), (late, other) = job(model), job(model), job(model, "In a child")
    bad.asked.ids[:] = [10**6]
    engine.submit([good, bad, late])
    while engine.busy:
        engine.turn()
    assert [event.ended for event in broken] == ["fault"]
    assert heard[-1].ended == other[-1].ended == "length"


def test_a_fault_in_one_answers_text_is_its_own(model: Chosen) -> None:
    engine = Engine(together(model), queue=8)
    (good, heard), (bad, broken) = job(model), job(model)
    bad.pieces = None  # type: ignore[assignment]
    engine.submit([good, bad])
    while engine.busy:
        engine.turn()
    assert [event.ended for event in broken] == ["fault"]
    assert heard[-1].ended == "length"


def test_a_stop_ends_all_that_runs_and_waits(model: Chosen, working: Any) -> None:
    engine = Engine(together(model, rows=1), queue=8)
    worker = working(engine)
    jobs = [job(model, limit=200) for _ in range(3)]
    engine.submit([one for one, _ in jobs])
    until(lambda: jobs[0][1])
    worker.stop()
    assert [heard[-1].ended for _, heard in jobs] == ["fault"] * 3
    assert engine.cut == 3
    with pytest.raises(Full):
        engine.submit([job(model)[0]])
