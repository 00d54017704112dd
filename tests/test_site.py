"""The documentation as a site: builds without a warning, and asks nothing of anybody else's server."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}

pytest.importorskip("mkdocs")
pytest.importorskip("material")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Loads(HTMLParser):
    """What a page has the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return  # says where a page is; nothing is loaded
        if tag in LOADED and values.get(LOADED[tag]):
            self.found.append(str(values[LOADED[tag]]))


def loads(page: Path) -> list[str]:
    parser = Loads()
    parser.feed(page.read_text("utf-8"))
    return parser.found


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        every = loads(page)
        assert len(every) > 2, page  # else the parser has found nothing to look at
        assert not [one for one in every if one.startswith(("http:", "https:", "//"))], page
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text("utf-8"), sheet


def test_what_a_page_loads_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its addresses begin at the root of a server
        for one in loads(page):
            if not one.startswith("data:"):
                assert (page.parent / one.partition("?")[0].partition("#")[0]).exists(), (page, one)


def test_the_reference_pages_and_the_files_that_pages_name_come_along(site: Path) -> None:
    recipe = (site / "recipe.html").read_text("utf-8")
    assert 'id="train.learning_rate"' in recipe
    assert 'id="export"' in (site / "commands.html").read_text("utf-8")
    assert (site / "benchmarks" / "RESULTS.html").is_file()
    assert (site / "benchmarks" / "methods.png").is_file()
    assert "Curves" in (site / "src/residency/train/watch.py.html").read_text("utf-8")


def test_no_mark_of_a_template_is_left_on_a_page(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        assert "--8&lt;--" not in text and "--8<--" not in text, page
        assert "](../" not in text, page
