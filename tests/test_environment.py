from __future__ import annotations

from importlib.metadata import version

from residency import environment


def test_it_names_the_machine_and_the_versions_installed() -> None:
    found = environment.describe()
    assert found["torch"] == version("torch")
    assert "cores" in found["machine"]
    assert environment._version("no-such-package") == "not installed"
