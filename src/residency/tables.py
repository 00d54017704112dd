"""The plan's tables, for people: readable at 80 columns, every number with its unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

USES = ("inference", "qlora", "lora", "full")


def show(plan: dict[str, Any], rows: Sequence[tuple[str, str]], console: Console | None = None) -> None:
    """Print a plan (`Plan.as_dict()`) and the rows of its forecast to stdout, or to `console`."""
    console = console or Console(highlight=False)
    console.print(
        f"[bold]{escape(plan['name'])}[/bold]: {escape(plan['model'])}, {plan['method']}, {plan['precision']}"
    )
    console.print(f"{escape(plan['device'])}; {_how(plan)}")
    console.print(_here(plan, rows))
    console.print(_phases(plan))
    console.print(_verdict(plan))
    for note in plan["notes"]:
        console.print(escape(note))
    if plan["machines"]:
        console.print(_elsewhere(plan["machines"]))
        console.print(_largest(plan["machines"]))
        console.print(f"[dim]Assumed for the largest models: {plan['assumed']}.[/dim]")
        for source in _sources(plan["machines"]):
            console.print(f"[dim]{escape(source)}[/dim]")


def _how(plan: dict[str, Any]) -> str:
    return "measured by a few steps" if plan["measured"] else "from the configuration, nothing measured"


def _here(plan: dict[str, Any], rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=True)
    for name, value in rows:
        table.add_row(f"[dim]{escape(name)}[/dim]", escape(value))
    energy = f"{plan['kilowatt_hours']:.3g} kWh, {_dollars(plan['cost_usd'])} of electricity"
    table.add_row("[dim]energy[/dim]", energy)
    return table


def _phases(plan: dict[str, Any]) -> Table:
    table = Table(title="Memory by phase, GiB", title_justify="left", box=None, pad_edge=True, padding=(0, 2))
    table.add_column("phase")
    for name in ("held", "file pages", "peak"):
        table.add_column(name, justify="right")
    for name, phase in plan["memory"]["phases"].items():
        table.add_row(name, *(_gib(phase[key]) for key in ("held", "mapped", "peak")))
    return table


def _verdict(plan: dict[str, Any]) -> str:
    needed, free = _gib(plan["memory"]["needed"]), _gib(plan["free_bytes"])
    if plan["fits"]:
        return f"[green]It fits[/green]: {needed} GiB are needed, {free} GiB can be had."
    return f"[red]It will not fit[/red]: {needed} GiB are needed, {free} GiB can be had. Nearest: {plan['nearest']}."


def _elsewhere(machines: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="This run elsewhere; GiB that each device needs", title_justify="left", box=None, padding=(0, 1)
    )
    table.add_column("machine", no_wrap=True)
    for name in ("devices", "type", "GiB", "fits", "time", "kWh", "US$"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in machines:
        table.add_row(
            one["name"],
            f"{one['devices']} x {one['memory']:g} GiB",
            one["precision"],
            _gib(one["needed_bytes"]),
            "yes" if one["fits"] else "[red]no[/red]",
            _clock(one["seconds"]["total"]),
            f"{one['kilowatt_hours']:.2g}",
            f"{one['cost_usd']:,.2f}" if one["cost_usd"] >= 0.01 else "<0.01",
        )
    return table


def _largest(machines: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Largest model, thousands of millions of parameters", title_justify="left", box=None, padding=(0, 1)
    )
    table.add_column("machine", no_wrap=True)
    for use in USES:
        table.add_column(use, justify="right")
    for one in machines:
        table.add_row(one["name"], *(_size(one["largest"][use]) for use in USES))
    return table


def _size(found: dict[str, Any]) -> str:
    """The parameters that fit, and the known model under them."""
    if not found["model"]:
        return "-"
    return f"{found['parameters'] / 1e9:.3g}\n[dim]{found['model']}[/dim]"


def _sources(machines: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({f"Prices: {one['source']}, {one['date']}." if one["date"] else "" for one in machines} - {""})


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 else "under $0.01"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
