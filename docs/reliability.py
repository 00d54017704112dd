"""The table of docs/reliability.md, made from what the tests of faults counted.

make faults                                      # runs them all, the slow ones too, and then this
pytest -m fault --reliability counted.jsonl      # or in two steps
python docs/reliability.py counted.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "reliability.md"
BEGIN, END = "<!-- the table: python docs/reliability.py FILE -->", "<!-- the end of the table -->"
HEAD = "| fault | where | what comes of it | injected | survived | lost | test |"
LINE = "| --- | --- | --- | ---: | ---: | ---: | --- |"


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of one fault in one place added up, in the order of their names, and a line for all of them."""
    summed: dict[tuple[str, str, str, str], list[int]] = {}
    for row in rows:
        key = (row["fault"], row["where"], row["outcome"], row["test"].partition("::")[0])
        counts = summed.setdefault(key, [0, 0, 0])
        for place, name in enumerate(("injected", "survived", "lost")):
            counts[place] += int(row[name])
    lines = [
        f"| {fault} | {where} | {outcome} | {injected} | {survived} | {lost} | [{Path(test).stem}](../{test}) |"
        for (fault, where, outcome, test), (injected, survived, lost) in sorted(summed.items())
    ]
    total = [sum(counts[place] for counts in summed.values()) for place in range(3)]
    return "\n".join([HEAD, LINE, *lines, f"| **all** | | | **{total[0]}** | **{total[1]}** | **{total[2]}** | |"])


def put(page: str, made: str) -> str:
    """The page with this table in place of the one that it has."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


def main(counted: Path) -> None:
    """Write the table into the page."""
    rows = [json.loads(line) for line in counted.read_text("utf-8").splitlines()]
    PAGE.write_text(put(PAGE.read_text("utf-8"), table(rows)), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
