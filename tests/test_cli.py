from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import write_jsonl


def residency(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    command = [sys.executable, "-m", "residency", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture
def recipe_file(small_recipe: dict[str, Any], tmp_path: Path) -> Path:
    return save(small_recipe, tmp_path)


def save(recipe: dict[str, Any], folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    return path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error of the user's becomes; checks everything that such a line must be."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("residency: ")]
    assert len(lines) == 1
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def test_a_missing_recipe_is_one_line(tmp_path: Path) -> None:
    assert "nowhere.yaml: no such file" in refused(residency("run", tmp_path / "nowhere.yaml"))


def test_a_misspelt_key_names_the_nearest(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    small_recipe["train"]["lerning_rate"] = 0.1
    line = refused(residency("prepare", save(small_recipe, tmp_path), cwd=tmp_path))
    assert 'unknown key "train.lerning_rate"' in line
    assert 'did you mean "learning_rate"?' in line


def test_a_missing_data_file_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    line = refused(residency("prepare", recipe_file, "--set", "data.source=not_there.csv", cwd=tmp_path))
    assert "data.source not_there.csv: no such file" in line


def test_a_wrong_column_names_the_columns_there_are(recipe_file: Path, tmp_path: Path) -> None:
    line = refused(residency("prepare", recipe_file, "--set", "data.answer=Docter", cwd=tmp_path))
    assert 'no column "Docter"; expected one of Description, Patient, Doctor; did you mean "Doctor"?' in line


def test_an_empty_data_set_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert "the file is empty" in refused(
        residency("prepare", recipe_file, "--set", "data.source=empty.jsonl", cwd=tmp_path)
    )


def test_data_without_a_usable_row_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "hollow.jsonl", [{"Description": "What?", "Doctor": " "}] * 3)
    line = refused(residency("prepare", recipe_file, "--set", "data.source=hollow.jsonl", cwd=tmp_path))
    assert "no row is left (3 empty answer)" in line


def test_an_unreachable_hub_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    line = refused(residency("prepare", recipe_file, "--set", "data.source=someone/something", cwd=tmp_path))
    assert "someone/something" in line
    assert "the hub does not give it" in line


def test_an_unreachable_hub_model_is_one_line(recipe_file: Path, tmp_path: Path) -> None:
    line = refused(residency("prepare", recipe_file, "--set", "model.base=someone/model", cwd=tmp_path))
    assert "model.base someone/model" in line


def test_an_unreadable_row_is_named_with_its_line(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text('{"Description": "q", "Doctor": "a"}\n{"Description": "q2", "Doc\n')
    line = refused(residency("prepare", recipe_file, "--set", "data.source=torn.jsonl", cwd=tmp_path))
    assert "torn.jsonl line 2" in line
    assert "on_error: skip" in line


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    assert "has no recipe.yaml" in refused(residency("evaluate", tmp_path))


def test_a_fault_of_ours_exits_with_one_and_says_so(recipe_file: Path, tmp_path: Path) -> None:
    residency("prepare", recipe_file, "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "data" / "report.json").write_text("{}")
    done = residency("report", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "a fault of residency; --debug shows where" in done.stderr
    assert "Traceback" in residency("report", "run", "--debug", cwd=tmp_path).stderr


def test_json_is_one_object_on_stdout(recipe_file: Path, tmp_path: Path) -> None:
    done = residency("prepare", recipe_file, "--out", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run"] == "run"
    assert found["data"]["rows_in"] == 60


def test_verify_says_what_is_wrong(recipe_file: Path, tmp_path: Path) -> None:
    residency("prepare", recipe_file, "--out", "run", cwd=tmp_path)
    assert residency("verify", "run", cwd=tmp_path).returncode == 0
    (tmp_path / "run" / "data" / "train.jsonl").unlink()
    assert "data/train.jsonl: missing" in refused(residency("verify", "run", cwd=tmp_path))


def test_init_writes_a_recipe_that_runs_and_never_over_another(data_file: Path, tmp_path: Path) -> None:
    done = residency("init", "mine", "--data", data_file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "read as question/answer: Description -> Doctor" in done.stderr
    text = (tmp_path / "mine.yaml").read_text()
    assert yaml.safe_load(text)["data"]["answer"] == "Doctor"
    assert "there already" in refused(residency("init", "mine", "--data", data_file, cwd=tmp_path))
    assert (tmp_path / "mine.yaml").read_text() == text


def test_plan_prints_tables_and_leaves_nothing_behind(recipe_file: Path, tmp_path: Path) -> None:
    done = residency("plan", recipe_file, "--no-measure", "--machine", "p4d.24xlarge", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("Memory by phase, GiB", "training step", "It fits", "p4d.24xlarge", "Largest model"):
        assert word in done.stdout
    assert not (tmp_path / "runs").exists()


def test_an_unknown_machine_names_the_nearest(recipe_file: Path, tmp_path: Path) -> None:
    line = refused(residency("plan", recipe_file, "--no-measure", "--machine", "rtx-409", cwd=tmp_path))
    assert 'did you mean "rtx-4090"?' in line


def test_audit_only_ends_in_a_page_and_trains_nothing(recipe_file: Path, tmp_path: Path) -> None:
    done = residency("prepare", recipe_file, "--audit-only", "--out", "run", cwd=tmp_path)
    assert done.stdout.strip() == str(Path("run") / "report.html")
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "model").exists()


def test_every_command_has_the_common_options() -> None:
    for command in ("run", "prepare", "plan", "train", "evaluate", "report", "verify"):
        text = residency(command, "--help").stdout
        assert "--json" in text
        assert "--debug" in text


def test_plan_draws_the_schedule_that_the_steps_of_the_prepared_data_make(recipe_file: Path, tmp_path: Path) -> None:
    unknown = refused(residency("plan", recipe_file, "--schedule", cwd=tmp_path))
    assert "how many steps is not known" in unknown
    assert "--steps N" in unknown
    drawn = residency("plan", recipe_file, "--schedule", "--steps", "40", cwd=tmp_path).stdout
    assert drawn.startswith("cosine, 40 steps, peak 0.01")
    assert drawn.count("|") == 10
    residency("prepare", recipe_file, cwd=tmp_path)
    done = residency("plan", recipe_file, "--schedule", "--json", "--set", "train.schedule=linear", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["schedule"] == "linear"
    assert len(found["learning_rate"]) == 6


def test_the_learning_rate_finder_prints_what_to_set(recipe_file: Path, tmp_path: Path) -> None:
    residency("prepare", recipe_file, cwd=tmp_path)
    done = residency("train", recipe_file, "--find-lr", "--set", "train.method=full", cwd=tmp_path)
    assert done.stdout.startswith("Suggested: --set train.learning_rate=")
    assert not (tmp_path / "runs" / "small" / "model").exists()
