"""What a model or a row says is shown as text: in the pages, in the report, in tables; tried in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the pages are served by FastAPI: pip install 'residency[serve]'")

from residency import pipeline
from residency.evaluate import results
from residency.export import card
from residency.recipe import Recipe
from residency.workspace import Run
from scripted import Scripted, browsing, says, served

NASTY = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    "<svg onload='window.hacked = 1'></svg><a href='javascript:window.hacked = 1'>click</a>"
    '"><iframe srcdoc="<script>parent.hacked = 1</script>"></iframe></style></textarea></title>'
)
PAGES = ("page.html", "study.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose rows and answers all try to break out of the page, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "nasty"
    rows = [{"question": f"{NASTY} case {n}?", "answer": f"{NASTY} answer {n} ends here."} for n in range(20)]
    source = folder.parent / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {
        "name": "nasty",
        "data": {"source": str(source), "validation": 0.1, "near_duplicate": 1.0},
        "model": {"base": str(llama_folder), "max_length": 512},
    }
    pipeline.prepare(Recipe.parse(raw), folder)
    made = Run.open(folder)
    answer = {"text": NASTY, "tokens": 5, "stopped": True, "loop": False, "answer_nll": 1.0}
    row = {"row": 1, "question": NASTY, "reference": NASTY}
    row |= dict.fromkeys(("base", "base_greedy", "tuned", "tuned_greedy"), answer)
    made.write_jsonl("evaluation/answers.jsonl", [row])
    assert NASTY.split(">", maxsplit=1)[0] not in pipeline.report(folder).read_text()
    return made


def hacked(page: Any) -> Any:
    page.wait_for_timeout(300)
    return page.evaluate("[window.hacked, ...Array.from(frames, f => { try { return f.hacked } catch { } })]")


def test_the_report_shows_markup_as_text_also_as_a_file(browser: Any, run: Run) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("request", lambda request: said.append(request.url))
    page.goto((run.folder / "report.html").as_uri())
    assert [one for one in hacked(page) if one] == []
    assert "<script>window.hacked = 1</script>" in page.inner_text("body")
    assert page.locator("script, iframe, img[src=x]").count() == 0
    assert [url for url in said if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_the_reports_own_policy_stops_a_script_that_got_in(browser: Any, run: Run, tmp_path: Path) -> None:
    text = (run.folder / "report.html").read_text("utf-8")
    planted = text.replace(
        "</main>", "<script>window.hacked = 1</script><img src='x' onerror='window.hacked = 1'></main>"
    )
    assert planted != text
    (tmp_path / "report.html").write_text(planted, "utf-8")
    (tmp_path / "plain.html").write_text(planted.replace("Content-Security-Policy", "X"), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "plain.html").as_uri())
    assert 1 in hacked(page)  # without the policy it runs
    page.goto((tmp_path / "report.html").as_uri())
    assert 1 not in hacked(page)
    page.close()


def test_every_page_that_is_written_has_the_policy() -> None:
    root = Path(pipeline.__file__).parent
    whole = [path for path in sorted(root.rglob("*.html")) if "<head>" in path.read_text("utf-8")]
    own = [path for path in whole if "templates" not in path.parts]  # those have it as a header
    assert {path.name for path in own} >= {*PAGES, "table.html"}
    for path in own:
        head = path.read_text("utf-8").partition("</head>")[0]
        policy = head.index('http-equiv="Content-Security-Policy" content="default-src \'none\'')
        assert policy < min(head.index("<title>"), head.index("<style>")), path


def test_the_pages_show_an_answer_as_text(browser: Any, run: Run) -> None:
    scripted = Scripted()
    with served(scripted.app(run)) as scripted.address:
        page = browser.new_page(base_url=scripted.address)
        scripted.script.append(says(NASTY[:25], NASTY[25:]))
        page.goto("/")
        page.get_by_label("Your question").fill(NASTY)
        page.keyboard.press("Enter")
        page.locator(".turn .answer .foot").first.wait_for()
        assert NASTY in page.locator(".turn").last.inner_text().replace("\n", "")
        assert [one for one in hacked(page) if one] == []
        page.goto("/report")
        assert [one for one in hacked(page) if one] == []
        answer = page.request.get("/report/page")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]
        for path in ("/", "/vote", "/ratings", "/report"):
            policy = page.request.get(path).headers["content-security-policy"]
            assert policy.startswith("default-src 'self'") and "unsafe" not in policy
        page.close()


def test_tables_and_cards_in_markdown_hold_no_markup() -> None:
    said = NASTY + "\n| a | b | ![x](http://evil.example/x.png)"
    line = results._plain(said)
    assert "<" not in line.replace("<br>", "") and "\n" not in line and "\\|" in line
    quoted = card._as_it_stands(said)
    assert "<" not in quoted and "\\!\\[x\\]" in quoted
