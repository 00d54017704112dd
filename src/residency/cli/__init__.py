"""The command `residency`: Typer commands, nothing else. Heavy imports happen inside the command that needs them.

`app` holds what commands share; each of the other modules adds its commands to it, in the order of the help.
"""

from residency.cli import make as make  # isort: skip
from residency.cli import launch as launch  # isort: skip
from residency.cli import judge as judge  # isort: skip
from residency.cli import benchmark as benchmark  # isort: skip
from residency.cli import rank as rank  # isort: skip
from residency.cli import faults as faults  # isort: skip
from residency.cli import study as study  # isort: skip
from residency.cli import behaviour as behaviour  # isort: skip
from residency.cli import chat as chat  # isort: skip
from residency.cli import serve as serve  # isort: skip
from residency.cli import help as help  # isort: skip
from residency.cli import export as export  # isort: skip
from residency.cli.app import app, main

__all__ = ["app", "main"]
