from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from residency.recipe import Recipe
from residency.workspace import VOTES, Run

fastapi = pytest.importorskip("fastapi", reason="the pages are served by FastAPI: pip install 'residency[serve]'")

from fastapi.testclient import TestClient  # noqa: E402

from residency.serve import pages  # noqa: E402
from residency.serve.door import Door  # noqa: E402
from residency.serve.refused import Refused, refused  # noqa: E402
from residency.serve.settings import Settings  # noqa: E402

GOOD, BAD = "Rest and water will help.", "It is what it is."
PAGES = ("/", "/vote", "/ratings", "/report")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "small", Recipe.load(None))
    rows = [
        {"row": n, "question": f"Question {n}?", "reference": GOOD, "base": {"text": BAD}, "tuned": {"text": GOOD}}
        for n in range(6)
    ]
    made.write_jsonl("evaluation/answers.jsonl", rows)
    return made


async def live(question: str, request: fastapi.Request) -> Mapping[str, str]:
    return {"tuned": f"tuned's answer to {question}", "base": f"base's answer to {question}"}


def client(run: Run, live: pages.Live | None = None) -> TestClient:
    return TestClient(application(pages.router(run, live)))


def application(router: fastapi.APIRouter) -> fastapi.FastAPI:
    """The pages without models."""
    app = fastapi.FastAPI()
    app.include_router(router)
    app.add_exception_handler(Refused, refused)
    return app


def votes(run: Run) -> list[dict[str, Any]]:
    file = run.folder / VOTES
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_nothing_from_elsewhere_and_runs_nothing_inline(path: str, run: Run) -> None:
    got = client(run, live).get(path)
    assert got.status_code == 200
    policy = got.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|https?://", got.text)


@pytest.mark.parametrize("path", PAGES)
def test_every_file_that_a_page_names_is_there(path: str, run: Run) -> None:
    browser = client(run, live)
    named = re.findall(r'(?:href|src)="(/pages/[^"]+)"', browser.get(path).text)
    assert named
    while named:
        file = named.pop()
        got = browser.get(file)
        assert got.status_code == 200, file
        assert got.headers["x-content-type-options"] == "nosniff"
        named += [f"/pages/{other}" for other in re.findall(r'from "\./([^"]+)"', got.text)]


@pytest.mark.parametrize("name", ["../routes.py", "..%2froutes.py", "nothing.css", "", "."])
def test_no_other_file_is_handed_out(name: str, run: Run) -> None:
    assert client(run).get(f"/pages/{name}").status_code == 404


def test_no_script_puts_text_in_as_markup() -> None:
    folder = Path(pages.__file__).parent / "static"
    for file in folder.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", file.read_text()
        )


def test_a_pair_tells_nothing_of_its_systems_until_the_vote_is_kept(run: Run) -> None:
    browser = client(run)
    got = browser.post("/api/pairs", json={"voter": "ann"})
    assert not re.search("tuned|base", got.text + str(got.headers))
    pair = got.json()
    assert sorted(pair["answers"]) == sorted([GOOD, BAD])
    assert pair["progress"] == {"done": 0, "of": 6, "same": 0}
    choice = "ab"[pair["answers"].index(GOOD)]
    said = browser.post("/api/votes", json={"id": pair["id"], "vote": choice, "voter": "ann", "reveal": True}).json()
    assert said[choice] == "tuned"
    (row,) = votes(run)
    assert (row[choice], row[f"answer_{choice}"], row["vote"], row["voter"]) == ("tuned", GOOD, choice, "ann")


def test_half_a_character_is_shown_as_a_mark(run: Run) -> None:
    row = {"row": 1, "question": "Half \ud83d?", "reference": "", "base": {"text": "a"}, "tuned": {"text": "\udc00b"}}
    run.write_text("evaluation/answers.jsonl", json.dumps(row) + "\n")
    pair = client(run).post("/api/pairs", json={}).json()
    assert (pair["question"], sorted(pair["answers"])) == ("Half ??", ["?b", "a"])


def test_which_was_which_is_said_only_where_it_is_asked(run: Run) -> None:
    browser = client(run)
    number = browser.post("/api/pairs", json={}).json()["id"]
    assert browser.post("/api/votes", json={"id": number, "vote": "both bad"}).json() == {}
    again = browser.post("/api/votes", json={"id": number, "vote": "a"})
    assert again.status_code == 410
    assert again.json()["error"]["message"] == "This pair is not open to votes any more; go on with another one"
    assert [row["vote"] for row in votes(run)] == ["both bad"]


@pytest.mark.parametrize("change", [{"vote": "c"}, {"vote": None}, {"why": "w" * 2001}, {"id": 3}])
def test_a_vote_that_is_none_is_refused(change: dict[str, Any], run: Run) -> None:
    browser = client(run)
    number = browser.post("/api/pairs", json={}).json()["id"]
    assert browser.post("/api/votes", json={"id": number, "vote": "a", **change}).status_code == 422
    assert votes(run) == []


def test_another_site_can_not_vote_through_a_visitors_browser(run: Run) -> None:
    browser = client(run)
    number = browser.post("/api/pairs", json={}).json()["id"]
    vote = json.dumps({"id": number, "vote": "a"})
    crossed = {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}
    assert browser.post("/api/votes", content=vote, headers=crossed).status_code == 403
    assert browser.post("/api/votes", content=vote, headers={"Content-Type": "text/plain"}).status_code == 422
    assert votes(run) == []


def test_a_question_of_ones_own_is_answered_by_both_and_its_vote_counts(run: Run) -> None:
    browser = client(run, live)
    pair = browser.post("/api/pairs", json={"question": "And at night?"}).json()
    assert sorted(pair["answers"]) == ["base's answer to And at night?", "tuned's answer to And at night?"]
    browser.post("/api/votes", json={"id": pair["id"], "vote": "a"})
    (row,) = votes(run)
    assert {row["a"], row["b"]} == {"tuned", "base"}
    assert row["answer_a"] == f"{row['a']}'s answer to And at night?"


def test_the_guard_speaks_of_a_question_of_ones_own_but_not_of_either_answer(run: Run) -> None:
    urgent = {"question": "I have crushing chest pain and my left arm is numb, what now?"}
    switches = ("emergencies", "not_a_doctor", "role", "answers")
    off = Run.create(run.folder, Recipe.load(None, [f"guard.{name}=false" for name in switches]))
    assert client(off, live).post("/api/pairs", json=urgent).json()["guard"] == []
    on = Run.create(run.folder, Recipe.load(None, [f"guard.{name}={name == 'emergencies'}" for name in switches]))
    (notice,) = client(on, live).post("/api/pairs", json=urgent).json()["guard"]
    assert notice["rule"] == "heart" and "emergency" in notice["notice"]
    assert client(on, live).post("/api/pairs", json={"question": "And at night?"}).json()["guard"] == []


def test_with_one_model_alone_a_question_of_ones_own_is_refused_in_words(run: Run) -> None:
    got = client(run).post("/api/pairs", json={"question": "And at night?"})
    assert got.status_code == 409
    assert "residency serve --compare" in got.json()["error"]["message"]
    assert 'id="own"' not in client(run).get("/vote").text


def test_a_run_without_answers_says_which_command_makes_them(run: Run) -> None:
    run.forget("evaluation")
    assert "residency evaluate" in client(run).get("/vote").text
    got = client(run).post("/api/pairs", json={})
    assert got.status_code == 409
    assert "residency evaluate" in got.json()["error"]["message"]


def test_ratings_follow_the_votes(run: Run) -> None:
    pytest.importorskip("evalica", reason="ratings are evalica's: pip install 'residency[rank]'")
    browser = client(run)
    assert "Nobody has voted yet" in browser.get("/ratings").text
    assert browser.get("/ratings.svg").status_code == 404
    for _ in range(6):
        pair = browser.post("/api/pairs", json={"voter": "<b>ann</b>"}).json()
        choice = "ab"[pair["answers"].index(GOOD)]
        browser.post("/api/votes", json={"id": pair["id"], "vote": choice, "voter": "<b>ann</b>"})
    page = browser.get("/ratings").text
    assert "6 votes on 6 questions, by &lt;b&gt;ann&lt;/b&gt; (6)." in page
    assert page.index('<th scope="row">tuned') < page.index('<th scope="row">base')
    assert "tuned won every vote" in page
    picture = browser.get("/ratings.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in picture.headers["content-security-policy"]


def test_damaged_votes_are_named_with_their_line(run: Run) -> None:
    write_jsonl(run.path(VOTES), [{"question": "Question 1?", "a": "tuned", "b": "base", "vote": "c"}])
    assert "votes.jsonl line 1: vote is &#34;c&#34;" in client(run).get("/ratings").text


def test_the_report_stands_apart_and_its_absence_names_the_command(run: Run) -> None:
    browser = client(run)
    assert f"residency report {run.folder}" in browser.get("/report").text
    assert browser.get("/report/page").status_code == 404
    run.write_text("report.html", "<!doctype html><style>p { color: red }</style><p>All is well.</p>")
    assert re.search(r'<iframe src="/report/page"[^>]* sandbox>', browser.get("/report").text)
    alone = browser.get("/report/page")
    assert "All is well" in alone.text
    policy = alone.headers["content-security-policy"]
    assert policy.startswith("sandbox")
    assert "script" not in policy
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy


def test_a_name_with_markup_is_text(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "odd", Recipe.load(None, ["prompt.system=<script>alert(1)</script>"]))
    page = client(run).get("/").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


TOKEN = "a-token-of-some-length"


@pytest.fixture
def guarded(run: Run) -> TestClient:
    """The pages behind the door of a server that others can reach."""
    app = application(pages.router(run, token=TOKEN))
    app.add_middleware(Door, settings=Settings("0.0.0.0", token=TOKEN))
    return TestClient(app, follow_redirects=False)


@pytest.mark.parametrize("path", PAGES)
def test_without_the_token_a_page_leads_to_where_it_is_asked_for(path: str, guarded: TestClient) -> None:
    got = guarded.get(path, headers={"Accept": "text/html,*/*"})
    assert (got.status_code, got.headers["location"]) == (303, "/sign-in")
    asked = guarded.get("/sign-in")
    assert asked.status_code == 200
    for file in re.findall(r'(?:href|src)="(/pages/[^"]+)"', asked.text):
        assert guarded.get(file).status_code == 200
    assert guarded.get(path).status_code == 401  # a program gets an error
    assert guarded.post("/api/pairs", json={}, headers={"Accept": "text/html"}).status_code == 401


def test_the_token_opens_the_pages_for_a_browser_by_a_cookie_that_does_not_hold_it(guarded: TestClient) -> None:
    wrong = guarded.post("/sign-in", json={"token": "another-token-of-some-length"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (403, "That is not the token.")
    assert guarded.get("/").status_code == 401
    right = guarded.post("/sign-in", json={"token": f" {TOKEN}"})
    assert right.status_code == 200
    told = right.headers["set-cookie"]
    assert "httponly" in told.lower()
    assert "samesite=lax" in told.lower()
    assert TOKEN not in told
    assert guarded.get("/").status_code == 200
    assert guarded.post("/api/pairs", json={}).status_code == 200
    foreign = {"Origin": "https://elsewhere.example"}
    assert guarded.post("/api/pairs", json={}, headers=foreign).status_code == 403


@pytest.mark.parametrize("held", ["", TOKEN, "0" * 64, "\u00e9"])
def test_another_cookie_opens_nothing(held: str, guarded: TestClient) -> None:
    assert guarded.get("/", headers={"Cookie": f"residency={held}".encode()}).status_code == 401


def test_a_server_without_a_token_has_no_place_that_asks_for_one(run: Run) -> None:
    assert client(run).get("/sign-in").status_code == 404
