"""The results of a run's benchmarks as they come in: each finished task is kept, and not asked again.

`evaluation/benchmarks.json` has the scores, `evaluation/benchmarks.jsonl` each question's own, so that base and tuned
can be compared question by question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from residency.evaluate.benchmarks.sitting import Result, Settings
from residency.evaluate.scores import score
from residency.workspace import Run

SCORES, ROWS = "evaluation/benchmarks.json", "evaluation/benchmarks.jsonl"
GROUPS = {"mmlu": "mmlu_"}  # a group's name, and how the names of its tasks begin
Entry = dict[str, Any]


class Book:
    """What a run folder holds of benchmarks; `resamples` are for the intervals of the differences."""

    def __init__(self, run: Run, resamples: int) -> None:
        self.run, self.resamples = run, resamples
        there = (run.folder / SCORES).is_file() and (run.folder / ROWS).is_file()
        self.tasks: dict[str, Entry] = run.read_json(SCORES, "benchmark")["tasks"] if there else {}
        rows = run.read_jsonl(ROWS, "benchmark") if there else []
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            self.rows.setdefault((row.pop("task"), row.pop("system")), []).append(row)

    def holds(self, name: str, system: str, settings: Settings) -> bool:
        """Whether a system's result on a task is there already, or one of more questions under the same settings."""
        entry = self.tasks.get(name)
        if entry is None or system not in entry["systems"]:
            return False
        return entry["settings"] in (settings.as_dict(), {**settings.as_dict(), "limit": None})

    def add(self, name: str, system: str, settings: Settings, result: Result) -> None:
        """Keep a result and write the files; results of the task under other settings go."""
        entry = self.tasks.get(name)
        if entry is None or entry["settings"] != settings.as_dict():
            entry = {"settings": settings.as_dict(), "quick_look": settings.quick_look, "systems": {}}
            self.rows = {key: rows for key, rows in self.rows.items() if key[0] != name}
        entry["questions"] = len(result.rows)
        entry["higher_is_better"] = result.higher_is_better
        entry["systems"][system] = {
            "metrics": result.metrics,
            "truncated": result.truncated,
            "shared_contexts": result.shared_contexts,
            "seconds": result.seconds,
        }
        self.tasks[name] = entry
        self.rows[name, system] = result.rows
        entry["differences"] = self._differences([name], entry)
        self._write()

    def content(self) -> dict[str, Any]:
        """What benchmarks.json says: each task, and groups whose tasks were asked under the same settings."""
        found = {group: self._group(group, start) for group, start in GROUPS.items()}
        return {"tasks": self.tasks, "groups": {name: entry for name, entry in found.items() if entry}}

    def _differences(self, names: Sequence[str], entry: Entry) -> dict[str, dict[str, Any]]:
        """Tuned minus base of each metric with its 95% paired bootstrap interval, and whether that was forgotten."""
        if {"base", "tuned"} - set(entry["systems"]):
            return {}
        base, tuned = (self._values(names, system) for system in ("base", "tuned"))
        found = {}
        for metric in base:
            if metric not in tuned or len(base[metric]) != len(tuned[metric]):
                continue
            draws = score.resample(len(base[metric]), self.resamples)
            own = score.difference(tuned[metric], base[metric], draws)
            better = entry["higher_is_better"].get(metric.partition(",")[0], True)
            found[metric] = asdict(own) | {"forgotten": own.high < 0 if better else own.low > 0}
        return found

    def _values(self, names: Sequence[str], system: str) -> dict[str, list[float]]:
        """Each metric's values over the questions of some tasks."""
        found: dict[str, list[float]] = {}
        for name in names:
            for row in self.rows[name, system]:
                for metric, value in row.items():
                    if metric != "question":
                        found.setdefault(metric, []).append(value)
        return found

    def _group(self, group: str, start: str) -> Entry | None:
        """The mean over all questions of a group's tasks, whose standard error is pooled as lm-eval pools it.

        None where the group has not two tasks of the same settings and systems.
        """
        names = [name for name in self.tasks if name.startswith(start)]
        if len(names) < 2:
            return None
        first = self.tasks[names[0]]
        alike = [_alike(self.tasks[name]) == _alike(first) for name in names]
        if not all(alike):
            return None
        sizes = [self.tasks[name]["questions"] for name in names]
        systems = {}
        for system in first["systems"]:
            measured = [self.tasks[name]["systems"][system]["metrics"] for name in names]
            metrics = {metric: _pooled([own[metric] for own in measured], sizes) for metric in measured[0]}
            systems[system] = {"metrics": metrics}
        entry = {**{key: first[key] for key in ("quick_look", "higher_is_better")}, "systems": systems}
        return entry | {
            "tasks": names,
            "questions": sum(sizes),
            "differences": self._differences(names, entry),
        }

    def _write(self) -> None:
        self.run.write_jsonl(
            ROWS,
            [{"task": name, "system": system, **row} for (name, system), rows in self.rows.items() for row in rows],
        )
        self.run.write_json(SCORES, self.content())


def _alike(entry: Entry) -> tuple[Any, ...]:
    settings = {name: value for name, value in entry["settings"].items() if name != "data"}
    return settings, set(entry["systems"]), set(next(iter(entry["systems"].values()))["metrics"])


def _pooled(parts: Sequence[dict[str, float | None]], sizes: Sequence[int]) -> dict[str, float | None]:
    """The mean weighted by size; the standard error by the pooled variance, as lm-eval has it for its groups."""
    total = sum(sizes)
    value = sum((part["value"] or 0.0) * size for part, size in zip(parts, sizes, strict=True)) / total
    errors = [part["stderr"] for part in parts]
    if total <= len(sizes) or any(error is None for error in errors):
        return {"value": value, "stderr": None}
    spread = sum((size - 1) * (error or 0.0) ** 2 * size for error, size in zip(errors, sizes, strict=True))
    return {"value": value, "stderr": math.sqrt(spread / (total - len(sizes)) / total)}
