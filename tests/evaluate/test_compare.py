from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import dialogues, write_jsonl
from residency import evaluate as evaluation
from residency import models, pipeline
from residency.evaluate import compare
from residency.evaluate.answers.generate import CANDIDATES, Decoding
from residency.evaluate.compare import mildest
from residency.evaluate.scores import score
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run

SYSTEMS = ("base", "tuned")
METRICS = {
    "answer_nll", "answer_nll_byte", "perplexity", "perplexity_byte", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf",
    "corpus_bleu", "corpus_chrf", "exact_match", "token_f1", "distinct_1", "length", "length_ratio",
    "stopped", "repetition", "repeated", "boilerplate", "copied", "copied_words", "empty",
    "off_topic_kept", "tokens_per_second",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def in_float32() -> Iterator[None]:
    """Numbers that can be compared exactly; a processor that has bf16 would answer in it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "fast_dtype", lambda: torch.float32)
        yield


def recipe_of(base: Path, data: Path, **train: Any) -> Recipe:
    return Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(base), "max_length": 256},
            "train": {"method": "full", "examples_per_step": 8, "learning_rate": 0.01, "precision": "fp32", **train},
            "evaluate": {"questions": 5, "max_new_tokens": 40, "resamples": 200},
        }
    )


def evaluated(recipe: Recipe, folder: Path) -> Run:
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    pipeline.evaluate(folder)
    return Run.open(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Run:
    """A small chat model that has learnt its few dialogues well enough to beat its base.

    Answers are of different lengths, so that a mean over tokens is not the mean over answers.
    """
    folder = tmp_path_factory.mktemp("runs")
    extra = ("", "", " It is not serious.", " If there is pain at night, call the clinic at once and do not wait.")
    rows = [{**row, "Doctor": row["Doctor"] + extra[place % 4]} for place, row in enumerate(dialogues())]
    return evaluated(recipe_of(llama_folder, write_jsonl(folder / "data.jsonl", rows), epochs=10), folder / "small")


def scores(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.read_json("evaluation/scores.json", "evaluate")
    return found


def answers(run: Run) -> list[dict[str, Any]]:
    return run.read_jsonl("evaluation/answers.jsonl", "evaluate")


def prompt_of(run: Run) -> Prompt:
    return Prompt.build(run.recipe.prompt, AutoTokenizer.from_pretrained(run.folder / "model"))


def assert_saved_model_answers_alike(run: Run) -> None:
    prompt = prompt_of(run)
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32)
    for row in answers(run):
        ids = torch.tensor([prompt.prompt_ids(row["question"])])
        new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40)[0, ids.shape[1] :].tolist()
        assert prompt.decode(new) == row["tuned"]["text"]


def test_what_was_learnt_shows_with_its_interval(run: Run) -> None:
    difference = scores(run)["differences"]["answer_nll"]
    assert difference["low"] <= difference["mean"] <= difference["high"] < -1


def test_the_mean_nll_is_over_all_answer_tokens_and_agrees_with_the_answers(run: Run) -> None:
    answers = run.read_jsonl("evaluation/answers.jsonl", "evaluate")
    assert len(answers) == 5
    for system in ("base", "tuned"):
        each = [row[system]["answer_nll"] for row in answers]
        assert min(each) <= scores(run)["systems"][system]["answer_nll"] <= max(each)


def test_questions_come_from_the_test_split(run: Run) -> None:
    asked = [row["row"] for row in run.read_jsonl("evaluation/answers.jsonl", "evaluate")]
    assert asked == [dialogue.row for dialogue in run.dialogues("test")][:5]


def test_both_systems_are_shown_under_plain_greedy_too(run: Run) -> None:
    assert set(scores(run)["greedy"]) == {"base", "tuned"}
    assert all({"tuned_greedy", "base_greedy"} <= set(row) for row in run.read_jsonl("evaluation/answers.jsonl", ""))


def test_the_mildest_candidate_that_suffices_is_chosen_and_saved_with_the_model(run: Run) -> None:
    candidates = scores(run)["candidates"]
    assert [candidate["name"] for candidate in candidates] == [decoding.name for decoding in CANDIDATES]
    chosen = [candidate["chosen"] for candidate in candidates].index(True)
    references = [score.repeated(dialogue.answer) for dialogue in run.dialogues("validation")]
    limit = sum(references) / len(references) + 0.05
    assert chosen == mildest(candidates, 1 / len(references), limit)
    config = json.loads((run.folder / "model" / "generation_config.json").read_text())
    assert config.get("repetition_penalty", 1.0) == CANDIDATES[chosen].repetition_penalty
    assert config["do_sample"] is False


def test_ten_off_topic_questions_are_asked_with_mars_among_them(run: Run) -> None:
    probes = scores(run)["off_topic"]
    assert len(probes) == 10
    assert probes[0]["question"] == "What do you think of Mars?"
    assert all({"question", "base", "tuned"} == set(probe) for probe in probes)


def test_faults_are_counted_for_each_system(run: Run) -> None:
    faults = run.read_json("evaluation/errors.json", "evaluate")
    limit = sum(not row["tuned"]["stopped"] for row in run.read_jsonl("evaluation/answers.jsonl", ""))
    assert faults["tuned"]["ran to the limit"] == limit
    assert set(faults["base"]) == {"loop", "ran to the limit", "empty", "boilerplate"}


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)], 0),
        ([(0.9, 0.0, 0.0), (1.0, 0.0, 0.0)], 0),  # one question of ten is no difference
        ([(0.8, 0.0, 0.0), (1.0, 0.0, 0.0)], 1),
        ([(1.0, 0.3, 0.0), (1.0, 0.0, 0.0)], 1),
        ([(1.0, 0.0, 0.2), (1.0, 0.0, 0.01)], 1),  # not yet a loop, but on its way
        ([(1.0, 0.0, 0.2), (0.5, 0.0, 0.0)], 0),  # repeating little is no use where answers don't stop
        ([(1.0, 0.0, 0.4), (1.0, 0.0, 0.2), (1.0, 0.0, 0.3)], 1),
    ],
)
def test_the_first_decoding_that_is_as_good_as_any_is_taken(rows: list[tuple[float, float, float]], place: int) -> None:
    named = [dict(zip(("stopped", "repetition", "repeated"), row, strict=True)) for row in rows]
    assert mildest(named, tolerance=0.1, most_repeated=0.05) == place


def test_every_system_has_the_scores_that_the_design_names(run: Run) -> None:
    found = scores(run)
    assert set(found["systems"]) == set(found["intervals"]) == set(found["greedy"]) == set(SYSTEMS)
    for system in SYSTEMS:
        assert set(found["systems"][system]) >= METRICS
        assert set(found["intervals"][system]) == set(found["systems"][system]) - {"tokens_per_second"}
        assert {"rouge_l", "bleu", "chrf", "stopped", "repetition", "empty"} <= set(found["greedy"][system])
    # The base says no words here, which have no reading ease; what one system lacks is not compared.
    assert {"reading_ease", "distinct_2"} <= set(found["systems"]["tuned"])
    assert set(found["differences"]) == set(found["intervals"]["tuned"]) & set(found["intervals"]["base"])
    assert found["precision"] == "float32"
    assert found["questions"] == 5


def test_scores_are_the_means_of_what_the_libraries_say_of_each_answer(run: Run) -> None:
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    for system in SYSTEMS:
        for key, means in (
            (system, scores(run)["systems"][system]),
            (f"{system}_greedy", scores(run)["greedy"][system]),
        ):
            pairs = [(row[key], row["reference"]) for row in answers(run)]
            expected = {
                "rouge_l": [
                    100 * rouge.score(reference, given["text"])["rougeL"].fmeasure for given, reference in pairs
                ],
                "bleu": [sacrebleu.sentence_bleu(given["text"], [reference]).score for given, reference in pairs],
                "chrf": [sacrebleu.sentence_chrf(given["text"], [reference]).score for given, reference in pairs],
                "stopped": [given["stopped"] for given, _ in pairs],
                "repetition": [score.loops(given["text"]) for given, _ in pairs],
                "empty": [not given["text"] for given, _ in pairs],
                "length": [given["tokens"] for given, _ in pairs],
            }
            for metric, values in expected.items():
                assert means[metric] == pytest.approx(np.mean(values)), (key, metric)


def test_stock_sentences_of_the_training_data_are_found_in_the_answers(run: Run) -> None:
    stock = [item["text"] for item in run.read_json("data/report.json", "prepare")["boilerplate"]]
    assert stock
    for system in SYSTEMS:
        share = np.mean([any(text in row[system]["text"] for text in stock) for row in answers(run)])
        assert scores(run)["systems"][system]["boilerplate"] == pytest.approx(share)


def test_likelihoods_are_plain_cross_entropy_and_their_mean_is_over_tokens(run: Run, llama_folder: Path) -> None:
    prompt = prompt_of(run)
    for system, folder in (("base", llama_folder), ("tuned", run.folder / "model")):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        summed, tokens = 0.0, 0
        for row in answers(run):
            example = prompt.answer_example(row["question"], row["reference"])
            ids = torch.tensor([example.input_ids])
            labels = ids.clone()
            labels[:, : example.learn_from] = -100
            with torch.no_grad():
                nll = float(model(ids, labels=labels).loss)
            assert row[system]["answer_nll"] == pytest.approx(nll, rel=1e-4)
            summed, tokens = summed + nll * example.learnt, tokens + example.learnt
        assert scores(run)["systems"][system]["answer_nll"] == pytest.approx(summed / tokens, rel=1e-4)


def test_each_difference_says_whether_it_holds_among_all_that_were_compared(run: Run) -> None:
    found = scores(run)
    assert set(found["significance"]) == set(found["differences"])
    assert all(one["p"] <= one["holm"] for one in found["significance"].values())
    assert not any(one["stands"] for one in found["significance"].values())  # five questions show nothing by themselves
    assert found["signatures"]["chrf"].startswith("nrefs:1|case:mixed")


def test_the_copied_share_is_of_the_training_answers(run: Run) -> None:
    training = [f" {' '.join(dialogue.answer.split())} " for dialogue in run.dialogues("train")]
    for system in SYSTEMS:
        shares = []
        for row in answers(run):
            words = row[system]["text"].split()
            runs = [words[start:end] for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
            held = [len(own) for own in runs if any(f" {' '.join(own)} " in source for source in training)]
            shares.append(max(held, default=0) / max(len(words), 1))
        assert scores(run)["systems"][system]["copied"] == pytest.approx(np.mean(shares))


def test_differences_are_tuned_minus_base_with_the_mean_inside_the_interval(run: Run) -> None:
    found = scores(run)
    for metric, difference in found["differences"].items():
        expected = found["systems"]["tuned"][metric] - found["systems"]["base"][metric]
        assert difference["mean"] == pytest.approx(expected, abs=1e-9), metric
        assert difference["low"] - 1e-9 <= difference["mean"] <= difference["high"] + 1e-9
    for system in SYSTEMS:
        for metric, interval in found["intervals"][system].items():
            assert found["systems"][system][metric] == interval["mean"]
            assert interval["low"] - 1e-9 <= interval["mean"] <= interval["high"] + 1e-9


def test_plain_transformers_answers_with_the_saved_model_as_the_run_did(run: Run) -> None:
    # The chosen decoding lies in model/, so generate() needs no setting but the limit.
    assert_saved_model_answers_alike(run)


def test_a_decoding_other_than_greedy_is_saved_and_used_and_greedy_is_shown_beside_it(
    llama_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small a model never needs a penalty that helps: the choice is between one decoding.
    strong = Decoding("strong", repetition_penalty=1.3, no_repeat_ngram_size=3)
    monkeypatch.setattr(compare, "CANDIDATES", (strong,))
    run = evaluated(recipe_of(llama_folder, data_file, max_steps=6), tmp_path)
    config = json.loads((run.folder / "model" / "generation_config.json").read_text())
    assert {name: config[name] for name in strong.settings()} == strong.settings()
    assert scores(run)["decoding"] == {"name": "strong", **strong.settings()}
    assert_saved_model_answers_alike(run)
    assert all(row["tuned"]["text"] != row["tuned_greedy"]["text"] for row in answers(run))


def test_the_off_topic_share_is_that_of_the_probes_shown(run: Run) -> None:
    for system in SYSTEMS:
        kept = np.mean([score.steered_back(probe[system]) for probe in scores(run)["off_topic"]])
        assert scores(run)["systems"][system]["off_topic_kept"] == pytest.approx(kept)


def test_errors_json_holds_the_faults_of_the_answers(run: Run) -> None:
    faults = run.read_json("evaluation/errors.json", "evaluate")
    assert faults == scores(run)["faults"]
    for system in SYSTEMS:
        given = [row[system] for row in answers(run)]
        assert faults[system]["loop"] == sum(one["loop"] for one in given)
        assert faults[system]["ran to the limit"] == sum(not one["stopped"] for one in given)
        assert faults[system]["empty"] == sum(not one["text"] for one in given)


def test_exactly_one_candidate_is_chosen_and_named_as_the_decoding(run: Run) -> None:
    (chosen,) = [candidate for candidate in scores(run)["candidates"] if candidate["chosen"]]
    assert scores(run)["decoding"] == {"name": chosen["name"], **chosen["settings"]}
    config = json.loads((run.folder / "model" / "generation_config.json").read_text())
    assert {name: config[name] for name in chosen["settings"]} == chosen["settings"]
    assert config["eos_token_id"] == prompt_of(run).stop_ids


def test_what_evaluate_returns_is_what_it_writes_and_the_same_the_second_time(run: Run) -> None:
    before = scores(run)
    found = asdict(evaluation.evaluate(run.recipe, run, prompt_of(run)))
    assert json.loads(json.dumps(found)) == scores(run)
    for each in (before, found):
        each.pop("speeds")
        for system in SYSTEMS:
            each["systems"][system].pop("tokens_per_second")
    assert json.loads(json.dumps(found)) == before


def test_greedy_by_order_takes_older_settings_out_of_the_model_and_needs_no_second_pass(
    llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(llama_folder, data_file, max_steps=2)
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"decoding": "greedy"})})
    pipeline.prepare(recipe, tmp_path)
    pipeline.train(recipe, tmp_path)
    saved = tmp_path / "model" / "generation_config.json"
    config = json.loads(saved.read_text())
    saved.write_text(json.dumps({**config, "repetition_penalty": 1.2, "no_repeat_ngram_size": 6}))
    pipeline.evaluate(tmp_path)
    after = json.loads(saved.read_text())
    assert not {"repetition_penalty", "no_repeat_ngram_size"} & set(after)
    assert after["eos_token_id"] == config["eos_token_id"]
    assert all(row[f"{system}_greedy"] == {k: v for k, v in row[system].items() if k != "answer_nll"}
               for row in answers(Run.open(tmp_path)) for system in SYSTEMS)  # fmt: skip


def test_a_model_that_has_learnt_nothing_differs_by_exactly_nothing(
    llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    # The first step of a warm-up has a learning rate of zero.
    run = evaluated(recipe_of(llama_folder, data_file, max_steps=1, warmup=1), tmp_path)
    for metric, difference in scores(run)["differences"].items():
        assert difference == {"mean": 0.0, "low": 0.0, "high": 0.0}, metric


def test_a_plain_text_is_continued_from_its_first_quarter(llama_folder: Path, tmp_path: Path) -> None:
    texts = [{"text": row["Doctor"]} for row in dialogues(30)]
    data = write_jsonl(tmp_path / "texts.jsonl", texts)
    raw = recipe_of(llama_folder, data, max_steps=2).model_dump()
    raw["data"] |= {"question": None, "answer": None, "text": "text"}
    run = evaluated(Recipe.parse(raw), tmp_path / "run")
    held_out = {dialogue.row: dialogue.answer for dialogue in run.dialogues("test")}
    for row in answers(run):
        assert f"{row['question']} {row['reference']}" == held_out[row["row"]]
        assert 1 <= len(row["question"].split()) <= len(held_out[row["row"]].split()) / 4 + 1


def test_answers_come_from_the_test_split_and_never_from_what_chose_the_decoding(run: Run) -> None:
    asked = {row["row"] for row in answers(run)}
    others = {dialogue.row for split in ("train", "validation") for dialogue in run.dialogues(split)}
    assert asked and not asked & others


def test_the_candidates_are_tried_from_mild_to_strong() -> None:
    penalties = [decoding.repetition_penalty for decoding in CANDIDATES]
    assert penalties == sorted(penalties)
    assert CANDIDATES[0].settings() == {}


def test_without_probes_and_choice_the_report_says_so(run: Run) -> None:
    pipeline.evaluate(run.folder, overrides=("evaluate.off_topic=false", "evaluate.decoding=greedy"))
    found = scores(run)
    assert found["off_topic"] == []
    assert found["candidates"] == []
    assert found["decoding"] == {"name": "greedy"}
    assert "off_topic_kept" not in found["systems"]["tuned"]
    assert "How the decoding was chosen" in pipeline.report(run.folder).read_text()
