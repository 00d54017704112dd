from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM
from typer.testing import CliRunner

pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install 'residency[bench]'")

from conftest import write_jsonl
from residency import pipeline
from residency.assessments import benchmark as assessment
from residency.assessments.benchmark import Asked, benchmark
from residency.cli import app
from residency.errors import Interrupted, UserError
from residency.evaluate.benchmarks.language_model import BatchedLM
from residency.progress import Silent
from residency.recipe import Recipe
from residency.workspace import Run

TASKS = ("arc_easy", "mmlu")
WORDS = random.Random(0).sample(range(1000, 9999), 200)  # as long as each other, else the shortest is the likeliest


class Told(Silent):
    """Remembers what was said, and stops like Ctrl-C once a task has got through some tokens."""

    def __init__(self, stop_in: str = "") -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int]] = []
        self.stop_in = stop_in

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        self.steps.append((task, total))
        if self.stop_in and task == self.stop_in and done > 0:
            raise KeyboardInterrupt


def options(question: int) -> list[str]:
    return [f"{word} steps" for word in WORDS[4 * question : 4 * question + 4]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    easy = [
        {"question": f"What helps on day {n}?", "choices": options(n)[: 3 + n % 2], "answer": n % 3} for n in range(24)
    ]
    write_jsonl(folder / "arc_easy.jsonl", easy)
    subjects = ("anatomy",) * 5 + ("virology",) * 9
    mmlu = [
        {"subject": subject, "question": f"Where is knee {n}?", "choices": options(n), "answer": n % 4}
        for n, subject in enumerate(subjects)
    ]
    write_jsonl(folder / "mmlu.jsonl", mmlu)
    return folder


@pytest.fixture
def trained(small_recipe: dict[str, Any], llama_folder: Path, tmp_path: Path) -> Path:
    """A run whose tuned model is another one of the base's kind, which no training has to make."""
    run = Run.create(tmp_path / "run", Recipe.parse(small_recipe, "recipe"))
    torch.manual_seed(3)
    opinionated = AutoConfig.from_pretrained(llama_folder, initializer_range=0.3)
    LlamaForCausalLM(opinionated).save_pretrained(run.folder / "model")
    return run.folder


def rows(folder: Path, task: str, system: str) -> list[dict[str, Any]]:
    found = Run.open(folder).read_jsonl("evaluation/benchmarks.jsonl", "benchmark")
    return [row for row in found if (row["task"], row["system"]) == (task, system)]


def test_base_and_tuned_are_compared_question_by_question(trained: Path, questions: Path) -> None:
    told = Told()
    found = benchmark(trained, Asked(TASKS, questions), told)
    assert json.loads((trained / "evaluation" / "benchmarks.json").read_text()) == json.loads(json.dumps(found))
    assert list(found["tasks"]) == ["arc_easy", "mmlu_anatomy", "mmlu_virology"]
    easy = found["tasks"]["arc_easy"]
    assert (easy["questions"], easy["quick_look"]) == (24, False)
    for system in ("base", "tuned"):
        for metric, own in easy["systems"][system]["metrics"].items():
            values = [row[metric] for row in rows(trained, "arc_easy", system)]
            share = sum(values) / 24
            assert own["value"] == pytest.approx(share)
            assert own["stderr"] == pytest.approx((share * (1 - share) / 23) ** 0.5)  # lm-eval's: of the sample
    for metric, difference in easy["differences"].items():
        both = (easy["systems"][system]["metrics"][metric]["value"] for system in ("tuned", "base"))
        assert difference["mean"] == pytest.approx(next(both) - next(both))
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert difference["forgotten"] == (difference["high"] < 0)
    base, tuned = (rows(trained, "arc_easy", system) for system in ("base", "tuned"))
    assert [(row["acc"], row["acc_norm"]) for row in base] != [(row["acc"], row["acc_norm"]) for row in tuned]
    assert Run.open(trained).verify() == []
    assert not list((trained / "evaluation").glob(".*partial"))


def test_a_group_is_the_mean_over_all_its_questions_with_a_pooled_error(trained: Path, questions: Path) -> None:
    found = benchmark(trained, Asked(("mmlu",), questions, systems=("base",)))
    group, tasks = found["groups"]["mmlu"], found["tasks"]
    sizes = {"mmlu_anatomy": 5, "mmlu_virology": 9}
    assert (group["tasks"], group["questions"], group["differences"]) == (list(sizes), 14, {})
    own = group["systems"]["base"]["metrics"]["acc"]
    parts = {name: tasks[name]["systems"]["base"]["metrics"]["acc"] for name in sizes}
    assert own["value"] == pytest.approx(sum(parts[name]["value"] * size for name, size in sizes.items()) / 14)
    from lm_eval.api.metrics import pooled_sample_stderr

    errors = [part["stderr"] for part in parts.values()]
    assert own["stderr"] == pytest.approx(pooled_sample_stderr(errors, list(sizes.values())))


def test_finished_tasks_are_kept_and_a_stopped_one_goes_on_where_it_was(
    trained: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = BatchedLM.__init__
    monkeypatch.setattr(BatchedLM, "__init__", lambda self, *args: small(self, *args, tokens_per_batch=100))
    asked = Asked(TASKS, questions)
    whole = benchmark(trained, asked)
    Run.open(trained).forget("evaluation")
    with pytest.raises(Interrupted, match=f"go on with `residency benchmark {trained} --tasks arc_easy,mmlu --data"):
        benchmark(trained, asked, Told(stop_in="mmlu_virology, base"))
    assert len(rows(trained, "arc_easy", "base")) == 24
    with pytest.raises(Interrupted):
        benchmark(trained, asked, Told(stop_in="arc_easy, tuned"))
    told = Told()
    found = benchmark(trained, asked, told)
    assert "There already for the base model, and kept: arc_easy, mmlu_anatomy, mmlu_virology" in told.said
    totals = dict(told.steps)
    assert set(totals) == {"arc_easy, tuned", "mmlu_anatomy, tuned", "mmlu_virology, tuned"}
    for name in whole["tasks"]:
        for system in ("base", "tuned"):
            expected = whole["tasks"][name]["systems"][system]["metrics"]
            assert found["tasks"][name]["systems"][system]["metrics"] == expected
    full = Told()
    Run.open(trained).forget("evaluation")
    benchmark(trained, asked, full)
    assert totals["arc_easy, tuned"] < dict(full.steps)["arc_easy, tuned"]  # its first batch was not computed again


def test_a_quick_look_is_marked_and_never_takes_the_place_of_a_full_result(trained: Path, questions: Path) -> None:
    pipeline.prepare(Run.open(trained).recipe, trained)
    told = Told()
    found = benchmark(trained, Asked(("arc_easy",), questions, limit=4), told)
    assert (found["tasks"]["arc_easy"]["quick_look"], found["tasks"]["arc_easy"]["questions"]) == (True, 4)
    assert any("quick look" in line for line in told.said)
    pipeline.report(trained)
    assert "quick look" in (trained / "report.html").read_text()
    full = benchmark(trained, Asked(("arc_easy",), questions))
    assert (full["tasks"]["arc_easy"]["quick_look"], full["tasks"]["arc_easy"]["questions"]) == (False, 24)
    page = (trained / "report.html").read_text()  # made again, since it was there
    assert "Benchmarks" in page and "quick look" not in page
    assert benchmark(trained, Asked(("arc_easy",), questions, limit=4)) == full


def test_the_command_prints_a_table_or_json(trained: Path, questions: Path) -> None:
    command = ["benchmark", str(trained), "--tasks", "arc_easy", "--data", str(questions), "--limit", "3"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "arc_easy" in shown.stdout and "a quick look" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["benchmark"]["tasks"]["arc_easy"]["questions"] == 3


def test_what_can_not_be_asked_is_refused_in_a_line(trained: Path, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--systems other: not known; expected of base, tuned"):
        Asked(TASKS, questions, systems=("other",))
    with pytest.raises(UserError, match=r"--tasks: none named"):
        benchmark(trained, Asked((), questions))
    Run.open(trained).forget("model")
    with pytest.raises(UserError, match="a run that `residency train` has been through"):
        benchmark(trained, Asked(TASKS, questions))
    assert assessment.rows(benchmark(trained, Asked(("arc_easy",), questions, systems=("base",))))
