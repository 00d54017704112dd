"""What the site's build adds to the pages of docs/: the reference, and every file of the repository that a page names.

A page may link to `../src/residency/train/watch.py` or `../benchmarks/RESULTS.md`: the link works where the repository
is read, and on the site the file comes along as a page of its own. A link to what is not there fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, InclusionLevel

import generate

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs"
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
SHOWN = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".txt": "text", ".jsonl": "json"}
ROW, CODE = re.compile(r"(?m)^\|.*$"), re.compile(r"`[^`]*`")
FENCE = "`" * 8


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and what the pages link to outside of docs/."""
    for name, page in generate.PAGES.items():
        files.append(File.generated(config, f"{name}.md", content=page()))
    pages = [file.src_uri for file in files.documentation_pages() if not file.generated_by]
    waiting = [(f"{DOCS}/{page}", target) for page in pages for target in _targets(ROOT / DOCS / page)]
    seen: set[str] = set()
    while waiting:
        origin, link = waiting.pop()
        target = _resolved(origin, link)
        if target in seen or target.startswith((f"{DOCS}/", "../")) or not (ROOT / target).is_file():
            continue
        seen.add(target)
        files.append(_mounted(target, config))
        if target.endswith(".md"):
            waiting += [(target, further) for further in _targets(ROOT / target)]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links to where they lie on the site.

    A bar in code in a table is written with a backslash, which GitHub takes away and Python-Markdown shows.
    """
    here = page.file.src_uri
    origin = here if (ROOT / here).is_file() and not (ROOT / DOCS / here).is_file() else f"{DOCS}/{here}"

    def placed(found: re.Match[str]) -> str:
        target = _resolved(origin, found[0])
        if target.startswith("../") or not (ROOT / target).is_file():
            return found[0]  # mkdocs says that it is missing
        return posixpath.relpath(_place(target), posixpath.dirname(here) or ".")

    markdown = ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)
    return LINK.sub(placed, markdown)


def _targets(page: Path) -> list[str]:
    return LINK.findall(page.read_text("utf-8"))


def _resolved(origin: str, link: str) -> str:
    """A link of a file as a path from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _place(target: str) -> str:
    """Where a file of the repository lies on the site."""
    if target.startswith(f"{DOCS}/"):
        return target.removeprefix(f"{DOCS}/")
    return f"{target}.md" if Path(target).suffix in SHOWN else target


def _mounted(target: str, config: Any) -> File:
    """A file of the repository as a part of the site: text as a page that shows it, anything else as it is."""
    language = SHOWN.get(Path(target).suffix)
    if language is None:
        return File.generated(
            config, _place(target), abs_src_path=str(ROOT / target), inclusion=InclusionLevel.NOT_IN_NAV
        )
    text = (ROOT / target).read_text("utf-8").rstrip()
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {Path(target).name}\n\n`{target}`\n\n"
    content = f"{head}{FENCE}{language}\n{text}\n{FENCE}\n"
    return File.generated(config, _place(target), content=content, inclusion=InclusionLevel.NOT_IN_NAV)
