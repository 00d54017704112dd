"""How a training is started on many devices: the command, and the file that has a cluster run it.

torchrun starts the processes, and starts them anew where one ends; what they do is `residency train`. Each file says
`--resume`, which begins where there is nothing to go on from, so that a machine that comes back goes on. The run folder
has to lie where all machines see it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from residency.errors import UserError
from residency.recipe import Recipe
from residency.sections import against_ranks

PORT = 29500
RESTARTS = 3
STOPS = 300  # seconds that a stop may take: to the end of a step, and a checkpoint
# Of torchrun: how long a stop may take, and a store of its own for each start (`ranks.join` says why).
SETTINGS = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOPS), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
JOINS = 7200  # seconds that machines wait for each other, while the first prepares the data
WORK = "/work"
VARIABLE = re.compile(r"^\$(?:HEAD:\d+|SLURM_JOB_ID|SKYPILOT_TASK_ID)$")


@dataclass(frozen=True)
class Launch:
    """A training on `nodes` machines with `devices` processes on each; `overrides` and `out` as `train` has them."""

    recipe: Recipe
    source: str | None
    nodes: int
    devices: int
    out: str | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can't be started.

        Raises:
            UserError: fewer than one machine or device, or a setting that several processes can't share.
        """
        for name, count in (("--nodes", self.nodes), ("--gpus", self.devices)):
            if count < 1:
                raise UserError(f"{name} {count}", "1 or more")
        if reason := against_ranks(self.recipe.train, self.world):
            raise UserError(f"{self.source or 'doctor'}: {reason}")

    @property
    def world(self) -> int:
        """How many processes there will be."""
        return self.nodes * self.devices

    @property
    def idle(self) -> int:
        """Processes that have nothing to do in any step, since it has fewer examples."""
        return max(self.world - self.recipe.train.examples_per_step, 0)

    def command(self, head: str = "", job: str = "") -> list[str]:
        """The words of the command for each machine; `head` is the name of one of them, `job` what they know it by.

        Raises:
            UserError: there are several machines, and none is named to meet at.
        """
        if self.nodes == 1:
            meet = ["--standalone"]
        elif head:
            meet = ["--nnodes", str(self.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{head}:{PORT}"]
            meet += ["--rdzv-id", job or self.recipe.name, "--rdzv-conf", f"join_timeout={JOINS}"]
        else:
            raise UserError(
                f"--nodes {self.nodes}: no machine is named to meet at", "--host NAME, one that all can reach"
            )
        runs = ["--nproc-per-node", str(self.devices), "--max-restarts", str(RESTARTS)]
        return ["torchrun", *meet, *runs, "-m", "residency", *self.stage("train")]

    def slurm(self) -> str:
        """A batch script: the first machine prepares the data, then each starts its processes."""
        options = {
            "job-name": self.recipe.name,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "gpus-per-node": self.devices,
            "exclusive": None,
            "requeue": None,
            "open-mode": "append",
            "signal": f"TERM@{STOPS}",
            "output": "%x-%j.log",
        }
        lines = [f"#SBATCH --{name}" + (f"={value}" if value is not None else "") for name, value in options.items()]
        script = [
            "#!/bin/bash",
            *lines,
            "# Add partition and account, and what makes `residency` known. All machines see this folder.",
            "set -eu",
            *(f"export {name}={value}" for name, value in SETTINGS.items()),
            _line(["residency", *self.stage("prepare")]),
            'export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "srun " + _line(self.command("$HEAD", "$SLURM_JOB_ID")),
        ]
        return "\n".join(script) + "\n"

    def sky(self, gpu: str | None) -> str:
        """A task for SkyPilot; `gpu` is its name for the device.

        Raises:
            UserError: no device is named.
        """
        if not gpu:
            raise UserError("--sky: no GPU is named", "--gpu KIND by SkyPilot's name, such as H100")
        script = [
            "set -eu",
            *(f"export {name}={value}" for name, value in SETTINGS.items()),
            'export HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)',
            *self._prepared("$SKYPILOT_NODE_RANK"),
            _line(self.command("$HEAD", "$SKYPILOT_TASK_ID")),
        ]
        task: dict[str, Any] = {
            "name": _plain(self.recipe.name),
            "num_nodes": self.nodes,
            "resources": {"accelerators": f"{gpu}:{self.devices}"},
            "workdir": ".",
            "setup": "pip install residency\n",
            "run": "\n".join(script) + "\n",
        }
        if self.nodes == 1:
            return _yaml(task)
        volumes = {f"~/sky_workdir/{self.folder}": f"{_plain(self.recipe.name)}-runs"}
        note = "# The volume is one that several machines may write (ReadWriteMany): `sky volumes apply` makes it.\n"
        return note + _yaml(task | {"volumes": volumes})

    def kubernetes(self, image: str | None) -> str:
        """An indexed Job and the service by which its pods find the first; the cluster needs no operator for it.

        Raises:
            UserError: no image is named.
        """
        if not image:
            raise UserError("--kubernetes: no image is named", "--image NAME, one that has residency in it")
        name = _plain(self.recipe.name)
        script = [
            "set -eu",
            *self._prepared("$JOB_COMPLETION_INDEX"),
            "exec " + _line(self.command(f"{name}-0.{name}", name)),
        ]
        container = {
            "name": "train",
            "image": image,
            "workingDir": WORK,
            "command": ["bash", "-c", "\n".join(script) + "\n"],
            "env": [{"name": name, "value": value} for name, value in SETTINGS.items()],
            "resources": {"limits": {"nvidia.com/gpu": self.devices}},
            "volumeMounts": [{"name": "work", "mountPath": WORK}, {"name": "shm", "mountPath": "/dev/shm"}],
        }
        pod = {
            "subdomain": name,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": STOPS + 30,
            "containers": [container],
            "volumes": [
                {"name": "work", "persistentVolumeClaim": {"claimName": f"{name}-work"}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }
        job = {
            "completionMode": "Indexed",
            "completions": self.nodes,
            "parallelism": self.nodes,
            "backoffLimit": RESTARTS * self.nodes,
            "template": {"spec": pod},
        }
        service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}}
        note = (
            f"# The claim {name}-work holds recipe, data and run folder; several machines write it (ReadWriteMany).\n"
        )
        return note + _yaml(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job},
        )

    @property
    def folder(self) -> str:
        """The run folder."""
        return self.out or f"runs/{self.recipe.name}"

    def stage(self, stage: str) -> list[str]:
        """The words of `residency train`, or of `prepare`, for this recipe."""
        words = [stage, *([self.source] if self.source else [])]
        words += ["--out", self.out] if self.out else []
        words += [part for override in self.overrides for part in ("--set", override)]
        return [*words, "--resume"] if stage == "train" else words

    def _prepared(self, number: str) -> list[str]:
        """Lines by which the first machine prepares the data; the others wait for it where all meet."""
        return [f'if [ "{number}" = 0 ]; then {_line(["residency", *self.stage("prepare")])}; fi']


def write(file: Path, text: str) -> None:
    """Write one of these files.

    Raises:
        UserError: it can't be written.
    """
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror})", "a place for the file") from None


def _line(words: Sequence[str]) -> str:
    """Words as a shell reads them; a variable of the files above is filled in, all else stands as it is."""
    return " ".join(f'"{word}"' if VARIABLE.search(word) else shlex.quote(word) for word in words)


def _plain(name: str) -> str:
    """A recipe's name as the name of a host: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50]


class _Dumper(yaml.SafeDumper):
    """YAML whose scripts read as scripts."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000)
