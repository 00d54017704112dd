"""What was found as a text for people, readable at 100 columns."""

from __future__ import annotations

from typing import Any

WIDTH = 24  # columns of a category's name


def told(report: dict[str, Any]) -> str:
    """A table of the categories that some answer has, and for each what stands behind it and what to change."""
    shown = [one for one in report["categories"] if _counts(one) or len(report["categories"]) == 1]
    lines = _table(report, shown)
    unchecked = [one["name"] for one in report["categories"] if not one["checked"]]
    clean = len(report["categories"]) - len(shown) - len(unchecked)
    if clean > 0:
        lines.append(f"{clean} other kinds of fault: none found.")
    if unchecked:
        lines.append(f"Not checked, since only a judge can tell (--judge URL#MODEL): {', '.join(unchecked)}.")
    if report["judge"]:
        counts = ", ".join(f"{count} of {name}" for name, count in report["judge"]["unparsable"].items())
        lines.append(f"Judge {report['judge']['model']}: replies that could not be read: {counts}.")
    for one in shown:
        lines += _why(one)
    if report.get("before"):
        lines += _before(report["before"], {one["name"] for one in report["categories"]})
    return "\n".join(lines)


def fixed(fix: Any) -> str:
    """What was changed in a recipe, and the commands that run it."""
    lines = [f"{fix.file}: {len(fix.changes)} changed"]
    lines += [f"  {change['shown']} ({change['why']})" for change in fix.changes]
    return "\n".join([*lines, "Now run:", *(f"  {command}" for command in fix.commands)])


def percent(value: float, signed: bool = False) -> str:
    """A share in per cent; a difference in percentage points has its sign, where it is not zero."""
    text = f"{100 * value:{'+' if signed else ''}.0f}"
    return text.lstrip("+-") if not float(text) else text


def span(shown: dict[str, Any] | None, signed: bool = False) -> str:
    """A share or difference with its interval; a dash where there is none."""
    if shown is None:
        return "-"
    low, high = percent(shown["low"], signed), percent(shown["high"], signed)
    if signed:
        return f"{percent(shown['mean'], True)} ({low} to {high})"
    return f"{percent(shown['share'])}% ({low} to {high})"


def _table(report: dict[str, Any], shown: list[dict[str, Any]]) -> list[str]:
    systems = [*report["systems"], *(["reference"] if shown else [])]
    heads = [*(f"{name}, %" for name in systems), "tuned - base, pp"]
    lines = [f"{report['questions']} questions; shares and differences with their 95% intervals"]
    lines.append("fault".ljust(WIDTH) + "".join(head.ljust(19) for head in heads))
    for one in shown:
        cells = [*(span(one["systems"][name]) for name in systems), span(one["difference"], True)]
        lines.append(one["name"].ljust(WIDTH) + "".join(cell.ljust(19) for cell in cells).rstrip())
    return lines


def _why(one: dict[str, Any]) -> list[str]:
    lines = [f"  {cause}" for cause in one["causes"]]
    lines += [f"  change {c['shown']} ({c['why']})" for c in one["remedies"]]
    lines += [f"  by hand: {one['advice']}"] if one["advice"] else []
    rows = ", ".join(str(example["row"]) for example in one["examples"] if example["system"] == "tuned")
    lines += [f"  for example rows {rows}"] if rows else []
    return ["", f"{one['name']}: {one['meaning']}", *lines] if lines else []


def _before(change: dict[str, Any], names: set[str]) -> list[str]:
    lines = [
        "",
        f"Against {change['run']}: {change['questions']} questions that both answered, {change['system']} model",
    ]
    if change["only_now"] or change["only_before"]:
        lines.append(
            f"Left out: {change['only_now']} that only this run has, {change['only_before']} of the other alone"
        )
    lines.append("fault".ljust(WIDTH) + "before, %".ljust(19) + "now, %".ljust(19) + "change, pp")
    for one in change["categories"]:
        some = any(one[side] and one[side]["count"] for side in ("before", "now"))
        if some and one["name"] in names:
            cells = [span(one["before"]), span(one["now"]), span(one["difference"], True)]
            lines.append(one["name"].ljust(WIDTH) + "".join(cell.ljust(19) for cell in cells).rstrip())
    return lines


def _counts(one: dict[str, Any]) -> int:
    return sum(shown["count"] for name, shown in one["systems"].items() if shown and name != "reference")
