"""Base and tuned beside other runs, checkpoints, models, files and endpoints; stopped half-way and gone on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from conftest import StopsAt
from residency import models, pipeline
from residency.cli import app
from residency.errors import Interrupted, UserError
from residency.evaluate import systems
from residency.evaluate.scores import measure
from residency.progress import Silent
from residency.recipe import Recipe
from residency.workspace import Run, sha256
from streams import KEY, PIECES, Server, at_the_limit, broken, refusing, serving
from test_models import gguf_file

HOSTILE = "<b>bold</b> | a *star*\nand <script>alert(1)</script>"


@pytest.fixture(scope="module", autouse=True)
def in_float32() -> Iterator[None]:
    """Numbers that can be compared exactly; a processor that has bf16 would answer in it. p-values only roughly."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "fast_dtype", lambda: torch.float32)
        patched.setattr(measure, "significance", partial(measure.significance, swaps=99))
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patched, serving() as opened:
        patched.setenv("no_proxy", "*")
        patched.setenv("OPENAI_API_KEY", KEY)
        patched.setattr("residency.endpoint.FIRST_WAIT", 0.01)
        yield opened


def recipe_of(base: Path, data: Path, **train: Any) -> Recipe:
    return Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(base), "max_length": 256},
            "prompt": {"system": "You are a doctor."} if "llama" in base.name else {},
            "train": {"examples_per_step": 8, "learning_rate": 0.01, "max_steps": 2, "precision": "fp32", **train},
            "evaluate": {"questions": 5, "max_new_tokens": 8, "resamples": 100, "batch": 4},
        }
    )


def trained(recipe: Recipe, folder: Path) -> Path:
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Path:
    """A trained run that was never evaluated; tests work on copies."""
    return trained(recipe_of(llama_folder, data_file, method="full"), tmp_path_factory.mktemp("runs") / "doctor")


@pytest.fixture(scope="module")
def neox_run(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path, data_file: Path) -> Path:
    """A run of another architecture with another tokenizer and no chat template, which has learnt two of the questions.

    Two runs split the same rows alike; these were put among the training rows by hand.
    """
    folder = trained(recipe_of(neox_folder, data_file), tmp_path_factory.mktemp("runs") / "pythia")
    lines = (folder / "data" / "test.jsonl").read_text("utf-8").splitlines(keepends=True)
    with (folder / "data" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(lines[:2])
    return folder


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Path:
    """A LoRA run that was stopped at its third step, so that it has checkpoints and no model."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    recipe = recipe_of(llama_folder, data_file, max_steps=4, evaluate_every=2)
    pipeline.prepare(recipe, folder)
    with pytest.raises(Interrupted):
        pipeline.train(recipe, folder, StopsAt(3))
    return folder


@pytest.fixture
def run(untouched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untouched, tmp_path / "doctor")


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory,
    untouched: Path,
    neox_run: Path,
    stopped_run: Path,
    llama_folder: Path,
    server: Server,
) -> Run:
    """Every kind of system beside the run's own two; the endpoint is busy, breaks, and has a long answer at first."""
    folder = shutil.copytree(untouched, tmp_path_factory.mktemp("runs") / "doctor")
    gguf_file(folder.parent / "file.gguf", llama_folder)
    server.script = [refusing(429, "slow down", Retry_After="0"), broken, at_the_limit]
    against = (
        str(neox_run),
        str(stopped_run / "checkpoints" / "checkpoint-2"),
        str(llama_folder),
        str(folder.parent / "file.gguf"),
        f"{server.address}#maker/big",
    )
    pipeline.evaluate(folder, against=against)
    return Run.open(folder)


NAMES = ("base", "tuned", "pythia", "stopped checkpoint-2", "llama-tiny", "file", "big")


def scores(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.read_json("evaluation/scores.json", "evaluate")
    return found


def answers(run: Run) -> list[dict[str, Any]]:
    return run.read_jsonl("evaluation/answers.jsonl", "evaluate")


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    for own in found["systems"].values():
        own.pop("tokens_per_second")
    for own in found["speeds"].values():
        for name in ("tokens_per_second", "seconds", "first_token_seconds"):
            own.pop(name)
    return found


def said(run: Run) -> list[Any]:
    """The texts of all answers."""
    return [(row["base"]["text"], row["tuned"]["text"], row["tuned_greedy"]["text"]) for row in answers(run)]


def test_every_system_is_scored_and_set_against_base_and_tuned(compared: Run) -> None:
    found = scores(compared)
    assert tuple(found["systems"]) == tuple(found["about"]) == tuple(found["speeds"]) == NAMES
    assert tuple(found["others"]) == NAMES[2:]
    for name, own in found["others"].items():
        for metric, change in own["tuned_minus"].items():
            expected = found["systems"]["tuned"][metric] - found["systems"][name][metric]
            assert change["mean"] == pytest.approx(expected, abs=1e-9), (name, metric)
            assert change["low"] - 1e-9 <= change["mean"] <= change["high"] + 1e-9
        for metric, change in own["minus_base"].items():
            expected = found["systems"][name][metric] - found["systems"]["base"][metric]
            assert change["mean"] == pytest.approx(expected, abs=1e-9), (name, metric)


def test_ranking_and_faults_see_every_system_that_answered(compared: Run) -> None:
    from residency import ranking
    from residency.evaluate import faults

    assert tuple(ranking.answered([compared]).systems) == NAMES
    found = faults.find(faults.read(compared))
    assert found.systems == NAMES
    assert found.asked[0].cases[NAMES[-1]].text == answers(compared)[0]["others"][NAMES[-1]]["text"]


def test_the_base_by_another_name_answers_as_the_base_and_differs_by_nothing(compared: Run) -> None:
    # The folder is the base model itself: another way to it must not make another model of it.
    assert all(row["others"]["llama-tiny"]["text"] == row["base"]["text"] for row in answers(compared))
    differences = scores(compared)["others"]["llama-tiny"]["minus_base"]
    assert {"chrf", "answer_nll", "off_topic_kept"} <= set(differences)
    assert all(change == {"mean": 0.0, "low": 0.0, "high": 0.0} for change in differences.values())


def test_what_counts_tokens_is_not_compared_across_tokenizers(compared: Run) -> None:
    found = scores(compared)
    for name in ("pythia", "big"):
        assert not {"answer_nll", "length"} & set(found["others"][name]["tuned_minus"])
        assert any("tokens are not the run's" in note for note in found["about"][name]["notes"])
    assert {"answer_nll", "length"} <= set(found["others"]["stopped checkpoint-2"]["tuned_minus"])


def test_another_run_that_has_learnt_some_of_the_questions_is_named_for_it(compared: Run) -> None:
    about = scores(compared)["about"]
    learnt = [any("are in what it was trained on" in note for note in own["notes"]) for own in about.values()]
    assert learnt == [name == "pythia" for name in NAMES]
    assert any(note.startswith("2 of the 5 questions") for note in about["pythia"]["notes"])
    assert any("without the system message" in note for note in about["pythia"]["notes"])


def test_a_checkpoint_is_the_base_with_what_it_has_learnt_so_far(
    compared: Run, stopped_run: Path, llama_folder: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt = models.load_prompt(compared.recipe)
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(stopped_run / "checkpoints" / "checkpoint-2")).eval()
    row = answers(compared)[0]
    example = prompt.answer_example(row["question"], row["reference"])
    ids = torch.tensor([example.input_ids])
    labels = ids.clone()
    labels[:, : example.learn_from] = -100
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=labels).loss)
    assert row["others"]["stopped checkpoint-2"]["answer_nll"] == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(row["base"]["answer_nll"], rel=1e-3)


def test_an_endpoint_is_asked_what_the_others_are_under_the_same_limits(compared: Run, server: Server) -> None:
    asked = [body for key, body in server.seen if key == f"Bearer {KEY}"]
    first = asked[0]
    assert first["messages"][0] == {"role": "system", "content": "You are a doctor."}
    assert {body["messages"][-1]["content"] for body in asked} >= {row["question"] for row in answers(compared)}
    assert all((body["temperature"], body["max_tokens"]) == (0, 8) for body in asked)
    assert len(asked) == 5 + 10 + 2  # questions, off-topic ones, and the two that were asked again


def test_an_endpoints_answers_have_its_count_its_reason_and_no_likelihood(compared: Run) -> None:
    given = [row["others"]["big"] for row in answers(compared)]
    assert [own["text"] for own in given] == ["".join(PIECES)] * 5
    assert [own["stop_reason"] for own in given] == ["length", "stop", "stop", "stop", "stop"]
    assert [own["stopped"] for own in given] == [False, True, True, True, True]
    assert all(own["tokens"] == 7 and own["answer_nll"] is None for own in given)
    assert all(0 < own["first_token_seconds"] <= own["seconds"] for own in given)
    assert scores(compared)["faults"]["big"]["ran to the limit"] == 1
    assert "answer_nll" not in scores(compared)["systems"]["big"]


def test_every_answer_has_its_tokens_times_and_reason(compared: Run) -> None:
    for row in answers(compared):
        for own in (row["base"], row["tuned"], row["tuned_greedy"], *row["others"].values()):
            assert 0 <= own["first_token_seconds"] <= own["seconds"]
            assert own["tokens_per_second"] == pytest.approx(own["tokens"] / own["seconds"], rel=0.1, abs=1)
        assert row["tuned"]["stop_reason"] == ("end token" if row["tuned"]["stopped"] else "limit")


def test_the_tables_hold_every_system_and_every_answer(compared: Run) -> None:
    table = pl.read_parquet(compared.folder / "evaluation" / "answers.parquet")
    chosen = table.filter(pl.col("decoding") == scores(compared)["decoding"]["name"])
    assert chosen.group_by("system").len().sort("system").to_dicts() == [
        {"system": name, "len": 5} for name in sorted(NAMES)
    ]
    by_row = {row["row"]: row for row in answers(compared)}
    for own in chosen.filter(pl.col("system") == "tuned").to_dicts():
        assert own["text"] == by_row[own["row"]]["tuned"]["text"]
    assert chosen["chrf"].null_count() == 0
    for name in ("table.md", "table.html"):
        text = (compared.folder / "evaluation" / name).read_text("utf-8")
        assert all(system in text.replace("\\", "") for system in NAMES)


def test_the_report_page_has_a_column_for_each_system(compared: Run) -> None:
    page = pipeline.report(compared.folder).read_text("utf-8")
    head = page.partition('id="against"')[2].partition("</tr>")[0]
    assert all(f">{name}</th>" in head for name in NAMES)
    assert page.count("".join(PIECES)) >= 5


def test_no_file_of_the_run_holds_the_key(compared: Run) -> None:
    files = [path for path in compared.folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]
    assert compared.verify() == []
    assert not (compared.folder / "evaluation" / "partial").exists()


def test_others_leave_base_and_tuned_as_they_are_without_them(compared: Run, whole: tuple[Run, int]) -> None:
    alone, beside = scores(whole[0]), scores(compared)
    for name in ("base", "tuned"):
        for each in (alone, beside):
            each["systems"][name].pop("tokens_per_second")
        assert alone["systems"][name] == beside["systems"][name]
        assert alone["intervals"][name] == beside["intervals"][name]
    assert alone["differences"] == beside["differences"]
    assert alone["others"] == {}
    assert "All systems" not in pipeline.report(whole[0].folder).read_text("utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, untouched: Path) -> tuple[Run, int]:
    """The run, evaluated without an interruption, and how many answers that took."""
    folder = shutil.copytree(untouched, tmp_path_factory.mktemp("runs") / "doctor")
    with pytest.MonkeyPatch.context() as patched:
        counted = Counted(patched)
        pipeline.evaluate(folder)
    return Run.open(folder), counted.prompts


class StopsInTask(Silent):
    """The user presses Ctrl-C while a task is at some share of its work."""

    def __init__(self, task: str, share: float) -> None:
        self.task, self.share = task, share

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task.startswith(self.task) and done >= self.share * total:
            raise KeyboardInterrupt


class Counted:
    """How many answers were asked of models on this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts = 0
        plain = systems.answer

        def counting(model: Any, prompt: Any, prompts: Sequence[Any], *rest: Any, **options: Any) -> Any:
            self.prompts += len(prompts)
            return plain(model, prompt, prompts, *rest, **options)

        monkeypatch.setattr(systems, "answer", counting)


@pytest.mark.parametrize(("task", "cut"), [("Choosing the decoding, 2", 0), ("Answers of the base", 1)])
def test_a_stopped_evaluation_goes_on_and_asks_nothing_twice(
    task: str, cut: int, whole: tuple[Run, int], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, every = whole
    with pytest.raises(Interrupted, match="residency evaluate"):
        pipeline.evaluate(run, StopsInTask(task, 0.75))
    kept = sum(line.count('"answer"') for line in kept_lines(run))
    assert 0 < kept < every
    for file in (run / "evaluation" / "partial").iterdir():
        content = file.read_bytes()
        if cut and task.encode() in content:  # a kill in the middle of a line costs that answer alone
            file.write_bytes(content[:-30])
    counted = Counted(monkeypatch)
    pipeline.evaluate(run)
    assert counted.prompts == every - kept + cut
    assert said(Run.open(run)) == said(uninterrupted)
    assert without_times(scores(Run.open(run))) == without_times(scores(uninterrupted))
    assert pipeline.verify(run) == []


def kept_lines(run: Path) -> list[str]:
    files = (run / "evaluation" / "partial").iterdir()
    return [line for file in files for line in file.read_text("utf-8").splitlines()]


def test_answers_of_a_changed_model_are_never_mixed_in(
    whole: tuple[Run, int], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(Interrupted):
        pipeline.evaluate(run, StopsInTask("Answers of the base", 0.75))
    base = sum("Answers of the base" in line for line in kept_lines(run))
    file = run / "model" / "model.safetensors"
    weights = {name: value.flip(0).contiguous() for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    counted = Counted(monkeypatch)
    pipeline.evaluate(run, overrides=("evaluate.decoding=greedy",))
    assert counted.prompts == 2 * (5 + 10) - base  # all of the tuned model's anew, the rest of the base's
    assert [row["base"] for row in answers(Run.open(run))] != [row["tuned"] for row in answers(Run.open(run))]


def test_answers_under_another_limit_are_never_mixed_in(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        pipeline.evaluate(run, StopsInTask("Answers of the base", 0.75))
    counted = Counted(monkeypatch)
    pipeline.evaluate(run, overrides=("evaluate.max_new_tokens=9", "evaluate.decoding=greedy"))
    assert counted.prompts == 2 * (5 + 10)
    assert {row["tuned"]["tokens"] for row in answers(Run.open(run)) if not row["tuned"]["stopped"]} <= {9}


def test_neither_a_refused_key_nor_ctrl_c_costs_what_was_answered(
    run: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    against = [f"{server.address}#big"]
    server.script = [refusing(401, f"Incorrect API key: {KEY}")]
    with pytest.raises(UserError, match=r"--against http.*#big: refuses the key") as error:
        pipeline.evaluate(run, against=against)
    assert KEY not in str(error.value)
    counted = Counted(monkeypatch)
    server.seen.clear()
    with pytest.raises(Interrupted, match=r"go on with `residency evaluate .* --against 'http.*#big'`") as stopped:
        pipeline.evaluate(run, StopsInTask("Answers of big", 0.4), against=against)
    assert KEY not in str(stopped.value)
    assert len(server.seen) == 6
    pipeline.evaluate(run, against=against)
    assert len(server.seen) == 15
    assert counted.prompts == 0


def test_an_endpoint_here_needs_no_key_is_counted_for_and_its_markup_stays_text(
    run: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setattr(server, "usage", False)
    monkeypatch.setattr("streams.PIECES", (HOSTILE,))
    server.seen.clear()
    report = pipeline.evaluate(run, against=[f"{server.address}#big"])
    assert {key for key, _ in server.seen} == {None}
    prompt = models.load_prompt(Run.open(run).recipe)
    given = answers(Run.open(run))[0]["others"]["big"]
    assert given["text"] == HOSTILE
    assert given["tokens"] == len(prompt.tokenizer(HOSTILE, add_special_tokens=False)["input_ids"])
    assert any("counted by the run's tokenizer" in note for note in report.about["big"]["notes"])
    assert report.frame().equals(pl.read_parquet(run / "evaluation" / "answers.parquet"))
    for name in ("table.html", "table.md"):
        assert "<script>" not in (run / "evaluation" / name).read_text("utf-8")
    lines = (run / "evaluation" / "table.md").read_text("utf-8").splitlines()
    row = next(line for line in lines if "bold" in line)
    assert row.replace("\\|", "").count("|") == 6  # question, reference, base, tuned, big


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nowhere/at/all", r"--against nowhere/at/all: no such file or folder; expected a run folder, a checkpoint"),
        ("https://api.example.org/v1#big", r"OTHER_KEY is not set in the environment.*--key-env"),
        ("https://api.example.org/v1", r"--against https://api.example.org/v1: no address of a model"),
        ("https://me:hunter2@api.example.org/v1#big", r"no address of a model"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    named: str, message: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    counted = Counted(monkeypatch)
    with pytest.raises(UserError, match=message) as error:
        pipeline.evaluate(run, against=[named], key_env="OTHER_KEY")
    assert "hunter2" not in str(error.value)
    assert counted.prompts == 0


def test_a_damaged_checkpoint_is_refused(run: Path, stopped_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stopped_run, tmp_path / "stopped")
    weights = copy / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert sha256(weights) != sha256(stopped_run / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="a damaged checkpoint"):
        pipeline.evaluate(run, against=[str(weights.parent)])


def test_the_command_takes_others_and_refuses_what_is_not_there(run: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(run), "--against", str(run), "--against", "nowhere/at/all"])
    assert done.exit_code == 2
    assert "--against nowhere/at/all: no such file or folder" in done.stderr
