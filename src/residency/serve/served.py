"""The models that a server has, and the run that they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from residency import environment, models
from residency.decoding import chosen, tried
from residency.decoding.body import Unfit
from residency.decoding.chosen import Chosen
from residency.guard import Guard
from residency.serve import vllm_core
from residency.serve.asked import Speaker
from residency.serve.cores import MEMORY, Apart, Core, Together, row_bytes
from residency.serve.engine import Engine, Worker
from residency.serve.metrics import Meter
from residency.serve.refused import Refused
from residency.serve.settings import Settings
from residency.workspace import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A model under the name that clients ask for."""

    name: str
    model: Speaker
    engine: Engine
    meter: Meter
    created: int  # seconds since 1970
    limit: int  # tokens of an answer where a client says nothing
    guard: Guard | None = None

    def described(self) -> dict[str, object]:
        """The model in OpenAI's form, with what it is to the run."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "residency",
            "residency": {"role": self.model.name, "window": self.model.window, "max_tokens": self.limit},
        }


@dataclass(frozen=True)
class Service:
    """Models by their names, and the thread in which they answer."""

    models: dict[str, Served]
    worker: Worker
    meter: Meter

    def model(self, name: str) -> Served:
        """The model of a name.

        Raises:
            Refused: there is none.
        """
        if name not in self.models:
            there = " and ".join(self.models)
            raise Refused(404, f"There is no model {name[:100]!r} here, but {there}.", "model_not_found", "model")
        return self.models[name]


def load(run: Run, settings: Settings, *, compare: bool, say: Callable[[str], None]) -> Service:
    """The run's tuned model under the recipe's name and, with `compare`, its base under `base`, ready to answer.

    Raises:
        UserError: the run was not trained, its models can't be loaded, or the rules of its guard are wrong.
    """
    environment.keep_freed_memory()
    guard = Guard.of(run.recipe)
    prompt, name = models.load_prompt(run.recipe), run.recipe.name
    created = int((run.folder / "model").stat().st_mtime)
    limit = run.recipe.evaluate.max_new_tokens
    if settings.engine == "vllm":
        remote = vllm_core.remote(run, prompt)
        core = vllm_core.load(run, remote, settings)
        return service_with({name: (remote, core)}, settings, limit, created, guard)

    def own() -> Service:
        found = {name: chosen.tuned(run, prompt)}
        if compare:
            found["base" if name != "base" else "base-model"] = chosen.base(run, prompt)
        return service_of(found, settings, limit=limit, say=say, created=created, guard=guard)

    return aside(own)


def aside(make: Callable[[], T]) -> T:
    """What `make` returns, made in a thread that ends with it.

    OpenMP keeps a team for each thread that has computed. With the teams of two there are more threads than cores, and
    then they sleep between operations where else they would wait for the next one: a token of a single answer took
    half as long again (benchmarks/RESULTS.md). So of those that live on, only the thread that answers computes.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def service_of(
    found: dict[str, Chosen],
    settings: Settings,
    *,
    limit: int,
    say: Callable[[str], None],
    created: int = 0,
    guard: Guard | None = None,
) -> Service:
    """Models by the names that clients ask for; an answer has at most `limit` tokens where a client says nothing."""
    cores = {name: (model, _core(name, model, settings, say)) for name, model in found.items()}
    return service_with(cores, settings, limit, created, guard)


def service_with(
    cores: Mapping[str, tuple[Speaker, Core]],
    settings: Settings,
    limit: int,
    created: int = 0,
    guard: Guard | None = None,
) -> Service:
    """Models by the names that clients ask for, each with what it answers by."""
    meter = Meter()
    served = {}
    for name, (model, core) in cores.items():
        engine = Engine(core, settings.queue)
        meter.watch(name, engine)
        served[name] = Served(name, model, engine, meter, created, limit, guard)
    return Service(served, Worker([one.engine for one in served.values()]), meter)


def _core(name: str, model: Chosen, settings: Settings, say: Callable[[str], None]) -> Core:
    """Answers side by side where the model is fit for that, as many as the memory holds."""
    first, second = model.prompt.prompt_ids("How are you?"), model.prompt.prompt_ids("Why is that so?")
    try:
        body = tried.body(model.model, first * (1 + tried.PROBE // len(first)))
    except Unfit as reason:
        say(f"{name} answers one request at a time, by transformers' generate: {reason}")
        return Apart(model)
    rows = _rows(model, settings.rows)
    if rows < settings.rows:
        say(f"{name}: {rows} answers side by side and not {settings.rows}, for which the memory is short")
    same = next((place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    return Together(body, model, rows, first[:same])


def _rows(model: Chosen, wanted: int) -> int:
    """How many answers' keys and values fit into the memory, each as long as the window."""
    row = row_bytes(model.model.config, model.window, model.model.dtype.itemsize)
    return max(1, min(wanted, int(MEMORY * _free(model) // row)))


def _free(model: Chosen) -> int:
    import torch

    if model.model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.model.device)[0])
    return environment.available_memory()
