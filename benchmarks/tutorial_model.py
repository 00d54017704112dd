"""What the tutorial's model does wrong, and which of its settings is the cause: both ways on the same rows of MedQuAD.

    python benchmarks/tutorial_model.py --medquad PATH/medquad.parquet       goes on where it was
    python benchmarks/tutorial_model.py --medquad PATH --rows 60 --max-length 128 --questions 5 --max-new-tokens 40
                                                                             to try it
    python benchmarks/tutorial_model.py --medquad PATH --arms tutorial "end token learnt"    some of the arms

Half of the training answers (`--closing`) end in the stock sentence that the tutorial's data is full of and MedQuAD is
not: "For further information consult a doctor online -->". So it is known which answers teach it.

* The tutorial's way: transformers' plain Trainer, every weight, Adafactor, 1e-5, one warm-up step, batches of one,
  accumulated four times, float32; prompt and answer in the loss; the pad token is the end token, so that
  DataCollatorForLanguageModeling masks the one as the other; the closings stay; plain greedy, a fixed limit.
* The base model without any training, asked in the same prompt.
* The tutorial's with one of its faults mended, and with both: a pad token of its own (the end is learnt), the closings
  taken out, each by itself. What such an arm differs by from the tutorial is then the effect of that one thing.
* Residency: the same rows by a recipe with LoRA; the closings taken out by its cleaning step; under plain greedy, and
  under the decoding that it chooses itself.

All are asked the same held-out questions with the same limit. Shares have Wilson's 95% interval, differences the
paired bootstrap's. Each row of the table is printed as it is measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

CLOSING = "For further information consult a doctor online -->"
MODEL = "smollm2-135m-instruct"
SEED = 123
TUTORIAL = "tutorial"  # the arm that the others are held against
RESAMPLES = 2000


@dataclass(frozen=True)
class Arm:
    """A training in the tutorial's way, with some of its faults mended; or none at all, asked in the same prompt."""

    name: str
    end_token: bool
    closings: bool
    learns: bool = True


ARMS = (
    Arm("no training", end_token=False, closings=False, learns=False),
    Arm(TUTORIAL, end_token=False, closings=True),
    Arm("end token learnt", end_token=True, closings=True),
    Arm("closings taken out", end_token=False, closings=False),
    Arm("both", end_token=True, closings=False),
)
OURS = {  # columns of answers.jsonl
    "residency's base, plain greedy": "base_greedy",
    "residency, plain greedy": "tuned_greedy",
    "residency, decoding chosen": "tuned",
}


@dataclass(frozen=True)
class Said:
    """One answer: its text, its tokens, and whether it ended by itself."""

    text: str
    tokens: int
    stopped: bool


def main() -> None:
    arguments = parsed()
    arguments.out.mkdir(parents=True, exist_ok=True)
    source, closed = rows(arguments)
    ours = arguments.out / "residency"
    if not (ours / "report.html").is_file():
        learn_ours(source, ours, arguments)
    found: dict[str, list[Said]] = {}
    stock = stock_sentences(ours, closed)
    print("| training, decoding | stops by itself | caught in a loop | the closing | any stock sentence | tokens |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in ARMS:
        if not arguments.arms or arm.name in arguments.arms:
            found[arm.name] = answers_of(arm, ours, closed, arguments)
            print(row(f"{arm.name}, plain greedy", found[arm.name], stock), flush=True)
    for name, column in OURS.items():
        found[name] = [said(answer[column]) for answer in read(ours / "evaluation" / "answers.jsonl")]
        print(row(name, found[name], stock), flush=True)
    effects(found, stock)
    circumstances(ours, arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, required=True, help="the data set's Parquet file")
    parser.add_argument("--rows", type=int, default=600, help="rows drawn; those over --max-length are dropped")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of the longest example")
    parser.add_argument("--closing", type=float, default=0.5, help="share of the answers that end in the closing")
    parser.add_argument("--epochs", type=float, default=1, help="of the tutorial's trainings")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="of the tutorial's trainings")
    parser.add_argument("--questions", type=int, default=50, help="held-out questions, at most")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="longest answer")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], help="only these, and residency's")
    parser.add_argument("--base", default=MODEL, help="another base model")
    parser.add_argument("--out", type=Path, default=Path("runs/tutorial-model"), help="where everything is put")
    return parser.parse_args()


# The rows


def rows(arguments: argparse.Namespace) -> tuple[Path, set[int]]:
    """A file of the rows that are drawn, and which of them, counted from 1, end in the closing."""
    file = arguments.out / "rows.jsonl"
    table = pl.read_parquet(arguments.medquad, columns=["question", "answer"])
    whole = table.filter(pl.col("answer").str.strip_chars().str.contains(r"[.!?]$"))  # only there it can be taken out
    drawn = whole.sample(min(arguments.rows, whole.height), seed=SEED, shuffle=True)
    generator = random.Random(SEED)
    closed, lines = set(), []
    for number, one in enumerate(drawn.iter_rows(named=True), start=1):
        if generator.random() < arguments.closing:
            closed.add(number)
            one["answer"] = f"{one['answer'].strip()} {CLOSING}"
        lines.append(json.dumps(one, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file, closed


def learn_ours(source: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """The whole of residency's run: it also prepares and splits the rows that the other arms learn from."""
    recipe = {
        "name": "tutorial-model",
        "data": {
            "source": str(source),
            "question": "question",
            "answer": "answer",
            "test": 0.15,
            "clean": ["unicode", "control-characters", "white-space", "stock-closings"],
        },
        "model": {"base": arguments.base, "max_length": arguments.max_length},
        "train": {
            "lora": {"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]} if arguments.base == MODEL else {},
            "epochs": 2,
            "learning_rate": 2e-3,
        },
        "evaluate": {
            "questions": arguments.questions,
            "max_new_tokens": arguments.max_new_tokens,
            "off_topic": False,
        },
    }
    file = arguments.out / "residency.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    command = [sys.executable, "-m", "residency", "run", str(file), "--out", str(folder), "--overwrite"]
    subprocess.run(command, check=True)


def dialogues(folder: Path, name: str, closed: set[int]) -> list[tuple[str, str]]:
    """Questions and answers of a split as they were prepared, with the closing put back where it stood."""
    from residency.workspace import Run

    return [
        (one.question, f"{one.answer} {CLOSING}" if one.row in closed else one.answer)
        for one in Run(folder).dialogues(name)
    ]


def stock_sentences(folder: Path, closed: set[int]) -> list[str]:
    """What 2% or more of the training answers say word for word, the closing among them."""
    from residency.data.audit import boilerplate
    from residency.evaluate.scores.values import BOILERPLATE_SHARE

    found = boilerplate([answer for _, answer in dialogues(folder, "train", closed)])
    return [item["text"] for item in found if item["share"] >= BOILERPLATE_SHARE]


# The tutorial's way


def answers_of(arm: Arm, ours: Path, closed: set[int], arguments: argparse.Namespace) -> list[Said]:
    """What the arm's model says to the held-out questions; trained unless its answers are here already."""
    file = arguments.out / f"{arm.name.replace(' ', '-')}.jsonl"
    if not file.is_file():
        learnt = dialogues(ours, "train", closed if arm.closings else set())
        started = time.perf_counter()
        model, tokenizer = trained(arm, learnt, arguments)
        if arm.learns:
            print(f"{arm.name}: {time.perf_counter() - started:.0f} s of training", file=sys.stderr)
        asked = [answer["question"] for answer in read(ours / "evaluation" / "answers.jsonl")]
        lines = [json.dumps(one.__dict__, ensure_ascii=False) for one in asked_of(model, tokenizer, asked, arguments)]
        file.write_text("\n".join(lines) + "\n", "utf-8")
    return [said(one) for one in read(file)]


def trained(arm: Arm, learnt: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The base model after transformers' plain Trainer, as the tutorial calls it."""
    from datasets import Dataset, disable_progress_bars
    from transformers import DataCollatorForLanguageModeling, PrinterCallback, Trainer, TrainingArguments

    from residency import models
    from residency.prompts import QUESTION_ANSWER
    from residency.recipe import ModelSection

    section = ModelSection(base=arguments.base)
    model, tokenizer = models.load_base(section), models.load_tokenizer(section)
    if not arm.learns:
        return model, tokenizer
    disable_progress_bars()
    tokenizer.pad_token = other_token(tokenizer) if arm.end_token else tokenizer.eos_token

    def tokens(one: dict[str, str]) -> Any:
        text = QUESTION_ANSWER.replace("{question}", one["question"]).replace("{answer}", one["answer"])
        return tokenizer(text + tokenizer.eos_token)

    data = Dataset.from_list([{"question": question, "answer": answer} for question, answer in learnt])
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.out / "plain"),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
            learning_rate=arguments.learning_rate,
            optim="adafactor",
            warmup_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=SEED,
        ),
        train_dataset=data.map(tokens, remove_columns=data.column_names),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.remove_callback(PrinterCallback)  # it prints between the rows of the table
    trainer.train()
    return model.eval(), tokenizer


def other_token(tokenizer: Any) -> str:
    """A special token that ends nothing, to pad with."""
    return next(token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token)


def asked_of(model: Any, tokenizer: Any, questions: Sequence[str], arguments: argparse.Namespace) -> list[Said]:
    """Answers under plain greedy in float32, token for token those of `model.generate(max_new_tokens=...)`."""
    from residency.evaluate.answers.generate import GREEDY, answer
    from residency.prompts import Prompt
    from residency.recipe import PromptSection

    prompt = Prompt.build(PromptSection(template="question-answer"), tokenizer)
    found = answer(
        model,
        prompt,
        [prompt.prompt_ids(question) for question in questions],
        GREEDY,
        max_new_tokens=arguments.max_new_tokens,
        batch=64,
    )
    return [Said(one.text, one.tokens, one.stopped) for one in found.answers]


# The table


def marks(answers: Sequence[Said], stock: Sequence[str]) -> dict[str, list[float]]:
    """Whether each answer stops, loops, has the closing, has any stock sentence."""
    from residency.evaluate.scores.score import loops

    rules: dict[str, Callable[[Said], bool]] = {
        "stops by itself": lambda one: one.stopped,
        "caught in a loop": lambda one: loops(one.text),
        "the closing": lambda one: CLOSING in one.text,
        "any stock sentence": lambda one: any(sentence in one.text for sentence in stock),
    }
    return {name: [float(rule(one)) for one in answers] for name, rule in rules.items()}


def row(name: str, answers: Sequence[Said], stock: Sequence[str]) -> str:
    from residency.evaluate.faults.report import wilson
    from residency.evaluate.scores.score import interval, resample

    cells = []
    for values in marks(answers, stock).values():
        low, high = wilson(int(sum(values)), len(values))
        cells.append(f"{100 * sum(values) / len(values):.0f}% ({100 * low:.0f} to {100 * high:.0f})")
    tokens = interval([float(one.tokens) for one in answers], resample(len(answers), RESAMPLES))
    return f"| {name} | {' | '.join(cells)} | {tokens.mean:.0f} ({tokens.low:.0f} to {tokens.high:.0f}) |"


def effects(found: dict[str, list[Said]], stock: Sequence[str]) -> None:
    """What each change does by itself: the difference to the tutorial's arm, in points, paired over the questions."""
    from residency.evaluate.scores.score import difference, resample

    if TUTORIAL not in found:
        return
    before = marks(found[TUTORIAL], stock)
    print(f"\n| against {TUTORIAL}, points | {' | '.join(before)} |\n|{' --- |' * (len(before) + 1)}")
    for name, answers in found.items():
        if name == TUTORIAL:
            continue
        cells = []
        for kind, values in marks(answers, stock).items():
            own = difference(values, before[kind], resample(len(values), RESAMPLES))
            cells.append(f"{100 * own.mean:+.0f} ({100 * own.low:+.0f} to {100 * own.high:+.0f})")
        print(f"| {name} | {' | '.join(cells)} |")


def circumstances(ours: Path, arguments: argparse.Namespace) -> None:
    report = json.loads((ours / "report.json").read_text("utf-8"))
    environment, data = report["train"]["environment"], report["data"]
    print(
        f"\n{data['rows_in']} rows read, {data['kept']} of at most {arguments.max_length} tokens kept, "
        f"{data['split']['train']} trained on, {arguments.closing:.0%} of them with the closing; "
        f"{report['evaluate']['questions']} questions, {arguments.max_new_tokens} new tokens at most; the tutorial's "
        f"trainings {arguments.epochs:g} epochs at {arguments.learning_rate:g}; residency's decoding: "
        f"{report['evaluate']['decoding']['name']}."
    )
    print(
        f"{environment['machine']}; torch {environment['torch']}, transformers {environment['transformers']}; ", end=""
    )
    print(f"{datetime.date.today()}.")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def said(value: dict[str, Any]) -> Said:
    return Said(value["text"], value["tokens"], value["stopped"])


if __name__ == "__main__":
    main()
