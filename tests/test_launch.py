"""What `residency launch` writes: files are parsed as what reads them would, and commands as by a shell."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from residency.cli import app
from residency.launch import SETTINGS, Launch
from residency.recipe import Recipe


def launch(*words: str) -> Any:
    return CliRunner().invoke(app, ["launch", "doctor", *words])


SHOWN = f"env {' '.join(f'{name}={value}' for name, value in SETTINGS.items())} "


def as_torchrun_reads_it(command: str) -> Any:
    program, *words = shlex.split(command.removeprefix(SHOWN))
    assert program == "torchrun"
    return get_args_parser().parse_args(words)


def test_one_machine_needs_no_place_to_meet() -> None:
    result = launch("--gpus", "8", "--set", "train.epochs=2", "--out", "runs/my run")
    assert result.stdout.startswith(SHOWN)
    found = as_torchrun_reads_it(result.stdout)
    assert found.standalone and found.nproc_per_node == "8" and found.max_restarts == 3
    assert (found.module, found.training_script) == (True, "residency")
    assert found.training_script_args == [
        "train", "doctor", "--out", "runs/my run", "--set", "train.epochs=2", "--resume",
    ]  # fmt: skip


def test_several_machines_meet_at_one_that_is_named() -> None:
    said = json.loads(launch("--nodes", "4", "--gpus", "8", "--host", "node-3", "--json").stdout)
    assert said["environment"] == SETTINGS
    found = as_torchrun_reads_it(shlex.join(said["command"]))
    assert (found.nnodes, found.rdzv_backend, found.rdzv_endpoint) == ("4", "c10d", "node-3:29500")
    result = launch("--nodes", "4")
    assert result.exit_code == 2
    assert "--nodes 4: no machine is named to meet at; expected --host NAME" in result.stderr


def test_a_slurm_script_is_a_shell_script_that_meets_at_its_first_machine(tmp_path: Path) -> None:
    file = tmp_path / "job.sh"
    assert launch("--nodes", "2", "--gpus", "4", "--slurm", str(file)).stdout.strip() == str(file)
    script = file.read_text()
    subprocess.run(["bash", "-n", str(file)], check=True)
    for line in ("#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4", "#SBATCH --requeue", "#SBATCH --signal=TERM@300"):
        assert line in script.splitlines()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {
        "scontrol": "echo node-1; echo node-2",
        "srun": 'echo "$@" > "$SAID"',
        "residency": 'echo "$@" > "$PREPARED"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    said, prepared = tmp_path / "said", tmp_path / "prepared"
    subprocess.run(
        ["bash", str(file)],
        env={
            "PATH": f"{tools}:/usr/bin:/bin", "SAID": str(said), "PREPARED": str(prepared),
            "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_ID": "77",
        },
        check=True,
    )  # fmt: skip
    assert prepared.read_text().split() == ["prepare", "doctor"]
    found = as_torchrun_reads_it(said.read_text())
    assert (found.rdzv_endpoint, found.rdzv_id, found.nproc_per_node) == ("node-1:29500", "77", "4")


def test_a_sky_task_has_its_machines_and_a_volume_that_all_of_them_see(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    assert launch("--nodes", "2", "--gpus", "8", "--sky", str(file), "--gpu", "H100").exit_code == 0
    task = yaml.safe_load(file.read_text())
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "H100:8")
    assert task["volumes"] == {"~/sky_workdir/runs/doctor": "doctor-runs"}
    assert "run: |" in file.read_text(), "a script reads as one"
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    assert '--rdzv-endpoint "$HEAD:29500"' in task["run"]


def test_a_kubernetes_job_is_indexed_and_its_pods_find_the_first_by_name(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    assert launch("--nodes", "3", "--gpus", "8", "--kubernetes", str(file), "--image", "me/residency:1").exit_code == 0
    service, job = yaml.safe_load_all(file.read_text())
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    script = container["command"][-1]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    found = as_torchrun_reads_it(script.splitlines()[-1].removeprefix("exec "))
    assert found.rdzv_endpoint == "doctor-0.doctor:29500"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--gpus", "0"), "--gpus 0; expected 1 or more"),
        (("--sky", "x.yaml"), "--sky: no GPU is named; expected --gpu KIND"),
        (("--kubernetes", "x.yaml"), "--kubernetes: no image is named; expected --image NAME"),
        (("--slurm", "no/such/folder/x.sh"), "no/such/folder/x.sh: can't be written (No such file or directory)"),
        (("--gpus", "2", "--set", "train.objective=dpo"), "doctor: train.objective dpo runs in one process"),
        (
            ("--set", "train.distributed.strategy=fsdp", "--set", "train.method=ia3"),
            "doctor: train.method ia3 can't be shared by fsdp",
        ),
        (("--set", "train.distributed.strategy=deepspeed"), "deepspeed names no file"),
    ],
)
def test_what_cant_be_launched_gets_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    result = launch(*words)
    assert result.exit_code == 2
    assert line in result.stderr and result.stderr.count("\n") == 1


def test_more_processes_than_examples_are_told() -> None:
    result = launch("--gpus", "8", "--set", "train.examples_per_step=6")
    assert "6 examples a step leave 2 of 8 processes idle" in result.stderr
    assert Launch(Recipe.load("doctor"), None, 1, 1).idle == 0


def test_other_commands_are_refused_where_torchrun_has_started_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["report", "nowhere"])
    assert result.exit_code == 2
    assert "started as one of 2 processes; expected one process" in result.stderr
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    silent = CliRunner().invoke(app, ["report", "nowhere"])
    assert silent.exit_code == 2 and not silent.stderr
