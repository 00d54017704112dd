from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install 'residency[bench]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import write_jsonl
from residency.errors import UserError
from residency.evaluate import benchmarks
from residency.evaluate.answers import continuations
from residency.evaluate.benchmarks.language_model import BatchedLM

OPTIONS = ["rest", "running", "a cold drink", "more cough"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [{"question": "What helps a fever?", "choices": ["rest", "running", "cold drinks"], "answer": 0}],
    "hellaswag_val": [
        {
            "context": "Cough: A man coughs. He [laughs] drinks. the lady near Him",
            "endings": ["runs away [title] Now.", "rests."],
            "answer": 1,
        },
        {"context": "Rest: Lie down [title] Then sleep.", "endings": ["Wake up.", "Sleep on."], "answer": 0},
    ],
    "mmlu_two": [
        {"subject": "anatomy", "question": " Where is the knee? ", "choices": OPTIONS, "answer": 2},
        {"subject": "medical genetics", "question": "What is a gene?", "choices": OPTIONS, "answer": 1},
    ],
    "truthfulqa": [
        {
            "question": "Does rest help?",
            "best_answer": "It does",
            "correct_answers": ["Yes", "It does"],
            "incorrect_answers": ["Never", "It harms"],
        }
    ],
    "pubmedqa": [{"question": "Does rest help?", "contexts": ["Ten rested.", "Nine were well."], "answer": "maybe"}],
    "medqa": [{"question": "What now?", "choices": OPTIONS, "answer": 3}],
    "medmcqa": [{"question": "What now?", "choices": OPTIONS, "answer": 0}],
}
LETTERED = "A. rest\nB. running\nC. a cold drink\nD. more cough\nAnswer:"
# Prompt, targets and the right one's place, written out by hand as lm-eval's task definitions describe them.
RENDERED: dict[str, tuple[str, list[str], int]] = {
    "arc_easy": ("Question: What helps a fever?\nAnswer:", [" rest", " running", " cold drinks"], 0),
    "hellaswag": ("Cough: A man coughs. He drinks. The lady near him", [" runs away. Now.", " rests."], 1),
    "mmlu_anatomy": (
        "The following are multiple choice questions (with answers) about anatomy.\n\nWhere is the knee?\n" + LETTERED,
        [" A", " B", " C", " D"],
        2,
    ),
    "truthfulqa_mc1": ("\n\nQ: Does rest help?\nA:", [" It does", " Never", " It harms"], 0),
    "truthfulqa_mc2": ("\n\nQ: Does rest help?\nA:", [" Yes", " It does", " Never", " It harms"], 0),
    "pubmedqa": (
        "Abstract: Ten rested.\nNine were well.\nQuestion: Does rest help?\nAnswer:",
        [" yes", " no", " maybe"],
        2,
    ),
    "medqa_4options": ("Question: What now?\n" + LETTERED, [" A", " B", " C", " D"], 3),
    "medmcqa": ("Question: What now?\nChoices:\n" + LETTERED, [" A", " B", " C", " D"], 0),
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of docs/benchmarks.md."""
    folder = tmp_path_factory.mktemp("questions")
    for name, rows in ROWS.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    shots = [{"question": f"What helps {word}?", "choices": ["rest", "running"], "answer": 0} for word in ("us", "me")]
    write_jsonl(folder / "arc_easy_shots.jsonl", shots)
    return folder


def requests(exam: benchmarks.Exam) -> list[tuple[str, str]]:
    """What the first question of a task asks a model."""
    with benchmarks.quiet_lm_eval():
        exam.task.build_all_requests(limit=1)
    return [instance.args for instance in exam.task.instances]


@pytest.mark.parametrize("name", RENDERED)
def test_a_local_row_becomes_the_prompt_and_targets_of_lm_evals_own_task(name: str, questions: Path) -> None:
    exam = benchmarks.load(name, questions, None)
    prompt, targets, right = RENDERED[name]
    asked = requests(exam)
    assert [target for _, target in asked] == targets
    if name.startswith("truthfulqa"):
        assert all(context.endswith(prompt) and context.startswith("Q: What is human life") for context, _ in asked)
    else:
        assert {context for context, _ in asked} == {prompt}
    found = exam.task.doc_to_target(exam.task.eval_docs[0])
    choices = exam.task.doc_to_choice(exam.task.eval_docs[0])
    place = choices.index(found) if found in choices else int(found)
    assert place == right


def test_a_whole_paragraph_of_hellaswag_is_not_capitalised_within(questions: Path) -> None:
    exam = benchmarks.load("hellaswag", questions, None)
    assert exam.task.doc_to_text(exam.task.eval_docs[1]) == "Rest: Lie down. Then sleep."


def test_shots_come_from_the_file_beside_the_questions(questions: Path) -> None:
    (context, _), *_ = requests(benchmarks.load("arc_easy", questions, 2))
    before, _, asked = context.rpartition("\n\n")
    assert asked == "Question: What helps a fever?\nAnswer:"
    assert sorted(before.split("\n\n")) == [f"Question: What helps {word}?\nAnswer: rest" for word in ("me", "us")]
    with pytest.raises(UserError, match=r"2 examples .* at least as many in NAME_shots.jsonl"):
        benchmarks.load("arc_easy", questions, 3)


def test_mmlu_stands_for_the_subjects_that_the_folder_holds(questions: Path) -> None:
    names = benchmarks.names_of(["mmlu", "truthfulqa", "medqa", "mmlu_anatomy"], questions)
    assert names == ["mmlu_anatomy", "mmlu_medical_genetics", "truthfulqa_mc1", "truthfulqa_mc2", "medqa_4options"]


def test_with_a_hub_a_group_is_all_of_lm_evals_tasks_in_it() -> None:
    names = benchmarks.names_of(["mmlu", "arc_easy"], None)
    assert len(names) == 58
    assert {"mmlu_anatomy", "mmlu_professional_medicine", "arc_easy"} <= set(names)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("arc_easy", {"question": "Q", "choices": ["a", "b"], "answer": 2}, "line 1: answer 2 is not the index of one"),
        ("arc_easy", {"question": "Q", "choices": "a", "answer": 0}, "line 1: choices is no list of texts"),
        ("hellaswag", {"context": "no label", "endings": ["a", "b"], "answer": 0}, "begin with .activity: "),
        ("medqa_4options", {"question": "Q", "choices": ["a", "b"], "answer": 0}, "2 choices, and the task has room"),
        ("pubmedqa", {"question": "Q", "contexts": ["c"], "answer": "perhaps"}, "answer is none of yes, no, maybe"),
        ("truthfulqa_mc1", {"question": "Q", "best_answer": " "}, "best_answer is no text"),
    ],
)
def test_a_row_that_is_not_as_the_layout_says_is_named(
    name: str, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = name.removesuffix("_4options").removesuffix("_mc1")
    write_jsonl(tmp_path / f"{file}.jsonl", [row])
    with pytest.raises(UserError, match=message):
        benchmarks.load(name, tmp_path, None)


def test_what_is_not_there_is_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arc_esay: not one that can be read from files"):
        benchmarks.names_of(["arc_esay"], tmp_path)
    with pytest.raises(UserError, match=r"nothing for the task hellaswag; expected hellaswag.jsonl or hellaswag_val"):
        benchmarks.load("hellaswag", tmp_path, None)
    (tmp_path / "medqa.jsonl").write_text('{"question": \n')
    with pytest.raises(UserError, match=r"medqa.jsonl, line 1: not JSON"):
        benchmarks.load("medqa_4options", tmp_path, None)


@pytest.mark.parametrize("model", ["llama_folder", "neox_folder"])
def test_likelihoods_are_lm_evals_own_to_a_ten_thousandth(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    long = "rest and water for a fever, " * 150  # more tokens than the model's window has
    pairs = [
        ("What helps a fever?", " rest"),
        ("What helps a fever?", " a cold drink"),
        ("What helps a fever?", " running about all day long with a fever"),
        ("Trailing space ", "rest"),
        ("", "rest and water"),
        (long, " rest and water"),
        (long, " no"),
    ]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    texts = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(["Rest.", long])]
    with benchmarks.quiet_lm_eval():
        reference = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=2)
        ours = BatchedLM(loaded, tokenizer, tokens_per_batch=200)
        for request_, expected, found in zip(
            asked, reference.loglikelihood(asked), ours.loglikelihood(asked), strict=True
        ):
            assert found[0] == pytest.approx(expected[0], abs=1e-4), request_.args
            assert found[1] == expected[1]
        assert ours.shared and ours.truncated == 2
        assert ours.loglikelihood_rolling(texts) == pytest.approx(reference.loglikelihood_rolling(texts), abs=1e-3)


def test_a_journal_gives_back_what_was_computed_and_nothing_of_other_requests(tmp_path: Path) -> None:
    pairs: list[continuations.Pair] = [([1], [2, 3]), ([1], [4]), ([5], [6])]
    journal = benchmarks.Journal(tmp_path / "partial", "one model")
    assert journal.begin(pairs) == {}
    journal.keep({2: (-1.5, True)})
    journal.keep({0: (-2.25, False)})
    with journal.path.open("a") as file:
        file.write("[[1, -3.")  # killed while it wrote
    assert journal.begin(pairs) == {2: (-1.5, True), 0: (-2.25, False)}
    journal.keep({1: (-3.0, False)})
    assert len(journal.begin(pairs)) == 3
    assert benchmarks.Journal(journal.path, "another model").begin(pairs) == {}
    assert json.loads(journal.path.read_text().splitlines()[0])
