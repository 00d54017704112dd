"""One model on one task: lm-eval asks, scores and gives the standard errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from residency.evaluate.benchmarks.journal import Journal
from residency.evaluate.benchmarks.tasks import Exam, quiet_lm_eval

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a result depends on beside the model and the task; `data` is "hub" or the sha256 of the task's file."""

    data: str
    limit: int | None
    shots: int | None
    precision: str
    lm_eval: str

    @property
    def quick_look(self) -> bool:
        """Whether only the first questions were asked."""
        return self.limit is not None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """A model's scores on a task.

    `metrics` hold the value and lm-eval's standard error (None where it gives none), `rows` each question's own scores,
    `higher_is_better` says which way each metric goes.
    """

    metrics: dict[str, dict[str, float | None]]
    rows: list[dict[str, float]]
    higher_is_better: dict[str, bool]
    truncated: int
    shared_contexts: bool
    seconds: float


@dataclass(frozen=True)
class Sitting:
    """A model behind lm-eval's interface, ready to be asked."""

    lm: Any

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Sitting:
        """A loaded model and its tokenizer."""
        from residency.evaluate.benchmarks.language_model import BatchedLM

        with quiet_lm_eval():
            return cls(BatchedLM(model, tokenizer))

    def take(self, name: str, exam: Exam, settings: Settings, journal: Journal, tell: Tell) -> Result:
        """The model's result on a task.

        What was computed before it is stopped stands in the journal's file and isn't computed again.
        `tell(done, total)` is called with tokens.
        """
        from lm_eval.evaluator import evaluate

        lm = self.lm
        lm.tell, lm.truncated, lm.stderr, lm.shared = tell, 0, sys.stderr, False
        lm.journal = journal
        started = time.perf_counter()
        with quiet_lm_eval():
            found = evaluate(lm=lm, task_dict={name: exam.task}, limit=settings.limit, log_samples=True)
        assert found is not None  # lm-eval gives None to the further processes of several
        journal.end()
        return Result(
            metrics=_metrics(found["results"][name]),
            rows=_rows(found["samples"][name]),
            higher_is_better={metric: bool(up) for metric, up in found["higher_is_better"][name].items()},
            truncated=lm.truncated,
            shared_contexts=lm.shared,
            seconds=time.perf_counter() - started,
        )


def _metrics(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """lm-eval's `{"acc,none": 0.5, "acc_stderr,none": 0.01}`, by metric; a filter is named where there is one."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in results.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = results.get(f"{metric}_stderr,{chosen}")
        found[_named(metric, chosen)] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, (int, float)) else None,
        }
    return found


def _rows(samples: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Each question's scores, by the metrics' names; what a metric has that is no number is left out."""
    found: dict[int, dict[str, float]] = {}
    for sample in samples:
        row = found.setdefault(sample["doc_id"], {"question": sample["doc_id"]})
        for metric in sample["metrics"]:
            value = sample.get(metric)
            if value is not None and hasattr(value, "__float__"):  # NumPy's numbers, too
                row[_named(metric, sample.get("filter", "none"))] = float(value)
    return [found[question] for question in sorted(found)]


def _named(metric: str, chosen: str) -> str:
    return metric if chosen == "none" else f"{metric},{chosen}"
