"""The pages as a visitor uses them, in a headless Chromium; skipped where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the pages are served by FastAPI: pip install 'residency[serve]'")
pytest.importorskip("uvicorn", reason="the pages are served by uvicorn: pip install 'residency[serve]'")
playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tried by playwright")

from residency.recipe import Recipe  # noqa: E402
from residency.workspace import VOTES, Run  # noqa: E402
from scripted import Scripted, browsing, refuses, says, served  # noqa: E402

expect = playwright.expect
expect.set_options(timeout=20_000)  # milliseconds; other tests run beside these
GOOD, BAD = "Rest and water will help.", "It is what it is."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "clinic", Recipe.load(None, ["name=clinic"]))
    rows = [
        {"row": n, "question": f"Question {n}?", "reference": GOOD, "base": {"text": BAD}, "tuned": {"text": GOOD}}
        for n in range(4)
    ]
    made.write_jsonl("evaluation/answers.jsonl", rows)
    return made


@pytest.fixture
def server(run: Run) -> Iterator[Scripted]:
    scripted = Scripted()
    with served(scripted.app(run)) as scripted.address:
        yield scripted


@pytest.fixture
def page(browser: Any, server: Scripted) -> Iterator[Any]:
    """A page on which no script failed and no policy was broken, but for what the network did."""
    context = browser.new_context(base_url=server.address, viewport={"width": 1200, "height": 800})
    context.set_default_timeout(20_000)
    opened = context.new_page()
    said: list[str] = []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
    yield opened
    context.close()
    assert [line for line in said if not line.startswith("Failed to load resource")] == []


def ask(page: Any, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")


def last(page: Any) -> Any:
    """The last turn's answers."""
    return page.locator(".turn").last.locator(".answer")


def votes(run: Run) -> list[dict[str, Any]]:
    file = run.folder / VOTES
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def test_a_whole_conversation(page: Any, server: Scripted) -> None:
    page.goto("/")
    question = page.get_by_label("Your question")
    question.fill("What helps")
    question.press("Shift+Enter")
    question.type("against a cold?")
    question.press("Enter")
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    expect(last(page).locator(".foot")).to_contain_text("3 tokens")
    expect(last(page).locator(".foot")).to_contain_text("ended by itself")
    expect(page.locator("#said")).to_have_text("clinic: clinic says rest.")
    expect(question).to_be_focused()
    assert server.seen[0]["messages"] == [{"role": "user", "content": "What helps\nagainst a cold?"}]
    assert (server.seen[0]["model"], server.seen[0]["stream"]) == ("clinic", True)

    page.get_by_role("radio", name="Both").check()
    page.get_by_text("System message").click()
    page.get_by_label("Stands before").fill("Be kind.")
    server.script.extend([says("Sleep.", turns_left_out=2), says("Sleep", "!", reason="length")])
    ask(page, "And at night?")
    expect(last(page)).to_have_count(2)
    expect(last(page).get_by_text("cut off at its longest")).to_have_count(1)
    expect(last(page).get_by_text("left out 2 earlier turns")).to_have_count(1)
    told = [{"role": "system", "content": "Be kind."}, *server.seen[0]["messages"]]
    told += [{"role": "assistant", "content": "clinic says rest."}, {"role": "user", "content": "And at night?"}]
    assert sorted(body["model"] for body in server.seen[1:]) == ["base", "clinic"]
    assert [body["messages"] for body in server.seen[1:]] == [told, told]

    page.get_by_role("radio", name="Base").check()
    ask(page, "And then?")
    expect(last(page)).to_have_count(1)
    expect(last(page).locator(".text")).to_have_text("base says rest.")
    own = page.locator(".turn").nth(1).locator(".answer.base .text").text_content()
    assert server.seen[3]["messages"][-2] == {"role": "assistant", "content": own}


def test_markup_in_an_answer_is_text(page: Any, server: Scripted) -> None:
    nasty = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\n**bold** &amp;"
    page.goto("/")
    server.script.append(says(nasty[:12], nasty[12:], guard=[{"rule": "dose", "notice": "<b>No doses.</b>"}]))
    ask(page, "<b>Hello</b>")
    expect(last(page).locator(".text")).to_have_text(nasty, use_inner_text=True)
    expect(page.locator(".question")).to_have_text("<b>Hello</b>")
    expect(last(page).get_by_role("complementary", name="Notice")).to_contain_text("<b>No doses.</b>")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".turn script, .turn img, .turn b").count() == 0
    page.reload()
    expect(last(page).locator(".text")).to_have_text(nasty, use_inner_text=True)
    assert page.evaluate("window.hacked") is None


def test_a_reload_keeps_the_conversation_and_a_new_one_forgets_it(page: Any, server: Scripted) -> None:
    page.goto("/")
    page.get_by_role("radio", name="Both").check()
    ask(page, "What helps?")
    expect(last(page).locator(".text")).to_have_text(["clinic says rest.", "base says rest."])
    page.get_by_label("Your question").fill("A thought")
    page.reload()
    expect(last(page).locator(".text")).to_have_text(["clinic says rest.", "base says rest."])
    expect(page.get_by_label("Your question")).to_have_value("A thought")
    expect(page.get_by_label("Both")).to_be_checked()
    page.get_by_label("Your question").press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    expect(last(page).locator(".foot").first).to_contain_text("ended by itself")
    assert server.seen[-1]["messages"][0] == {"role": "user", "content": "What helps?"}
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Bring the last conversation back").click()
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    page.reload()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(0)


def test_an_answer_is_stopped_and_what_was_said_of_it_stays(page: Any, server: Scripted) -> None:
    page.goto("/")
    server.script.append(says(*["on and "] * 400, pause=0.02))
    ask(page, "Talk.")
    expect(last(page).locator(".text")).to_contain_text("on and on and")
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(last(page).locator(".foot")).to_contain_text("stopped by you")
    said = last(page).locator(".text").text_content()
    assert said.count("on and") < 400
    ask(page, "Enough?")
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    assert server.seen[-1]["messages"][1] == {"role": "assistant", "content": said}


def test_a_reload_in_the_middle_of_an_answer_keeps_its_half_and_offers_it_again(page: Any, server: Scripted) -> None:
    page.goto("/")
    server.script.append(says(*["on and "] * 400, pause=0.02))
    ask(page, "Talk.")
    expect(last(page).locator(".text")).to_contain_text("on and on and")
    page.reload()
    expect(last(page).locator(".foot")).to_contain_text("cut off by a reload")
    expect(last(page).locator(".text")).to_contain_text("on and on and")
    page.get_by_role("button", name="Try again").click()
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")


def test_an_answer_is_tried_again_by_its_model_even_where_the_list_of_models_came_late(
    page: Any, server: Scripted
) -> None:
    page.goto("/")
    server.script.append(refuses(500, "out of memory"))
    ask(page, "What helps?")
    expect(last(page).get_by_role("alert")).to_contain_text("out of memory")
    page.route("**/v1/models", lambda route: route.abort(), times=1)
    page.reload()
    page.get_by_role("button", name="Try again").last.click()
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (refuses(400, "this question has 900 tokens; expected at most 200"), "This question has 900 tokens"),
        (refuses(500, "out of memory"), "The server failed: out of memory."),
        (says("Rest, ", reason=None), "The connection broke off before the answer had ended."),
    ],
)
def test_what_goes_wrong_is_said_and_can_be_tried_again(way: Any, words: str, page: Any, server: Scripted) -> None:
    page.goto("/")
    server.script.append(way)
    ask(page, "What helps?")
    expect(last(page).get_by_role("alert")).to_contain_text(words)
    page.get_by_role("button", name="Try again").click()
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    expect(last(page).get_by_role("alert")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(1)


def test_a_busy_server_is_asked_again_and_one_that_is_gone_is_told(page: Any, server: Scripted) -> None:
    page.goto("/")
    server.script.append(refuses(503, "the queue is full", Retry_After="3"))
    ask(page, "What helps?")
    expect(last(page).locator(".foot")).to_contain_text("The server is busy; asking again in ")
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    ask(page, "And now?")
    expect(last(page).get_by_role("alert")).to_contain_text("Is “residency serve” still running?")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    assert len(server.seen[-1]["messages"]) == 3


def test_an_answer_is_copied(page: Any, server: Scripted) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    ask(page, "What helps?")
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "clinic says rest."


def test_one_model_alone_offers_no_choice(page: Any, server: Scripted) -> None:
    server.models = ("tuned",)
    page.goto("/")
    ask(page, "What helps?")
    expect(last(page).locator(".text")).to_have_text("clinic says rest.")
    expect(page.get_by_role("group", name="Who answers")).to_be_hidden()


def test_a_vote_by_keyboard_lands_in_the_run_folder(page: Any, server: Scripted, run: Run) -> None:
    page.goto("/vote")
    page.get_by_text("Your name, and").click()
    page.get_by_label("Your name").fill("ann")
    page.get_by_label("Your name").press("Tab")
    expect(page.locator("#state")).to_contain_text("0 of 4 pairs voted on by you")
    expect(page.locator("#pair")).to_be_visible()
    assert not re.search("tuned|base", page.locator("#pair").inner_html())
    asked = page.locator("#asked").text_content()
    better = "AB"[[page.locator(f"#answer-{name}").text_content() for name in "ab"].index(GOOD)]
    why = page.get_by_label("Why?")
    why.fill("Clear, 1 of ")
    why.type("12")  # digits in the field are no votes
    page.locator("#asked").focus()
    page.keyboard.press({"A": "1", "B": "2"}[better])
    expect(page.locator("#state")).to_contain_text("1 of 4 pairs voted on by you")
    expect(why).to_have_value("")
    expect(page.locator("#asked")).not_to_have_text(asked)
    (row,) = votes(run)
    assert (row["question"], row["vote"], row["why"], row["voter"]) == (asked, better.lower(), "Clear, 1 of 12", "ann")
    assert row[better.lower()] == "tuned"
    page.get_by_label("Say after each vote").check()
    page.get_by_role("button", name="Both bad").click()
    expect(page.locator("#state")).to_contain_text("Your vote is kept. A was ")
    second = votes(run)[1]
    assert (page.locator("#who-a").text_content(), page.locator("#who-b").text_content()) == (second["a"], second["b"])
    page.keyboard.press("Enter")  # the focus is on "Next pair"
    expect(page.locator("#state")).to_contain_text("2 of 4 pairs voted on by you")
    expect(page.locator("#who-a")).to_have_text("")


def test_a_question_of_ones_own_is_voted_on(page: Any, server: Scripted, run: Run) -> None:
    page.goto("/vote")
    page.get_by_label("My own").check()
    page.get_by_label("Your question").fill("And at night?")
    page.get_by_role("button", name="Ask both").click()
    expect(page.locator("#asked")).to_have_text("And at night?")
    page.get_by_role("button", name="A is better").click()
    expect(page.locator("#state")).to_contain_text("Your vote is kept.")
    (row,) = votes(run)
    assert (row["question"], row["vote"], {row["a"], row["b"]}) == ("And at night?", "a", {"tuned", "base"})
    expect(page.get_by_role("complementary", name="Notice")).to_have_count(1)  # not a doctor's advice
    page.get_by_label("Your question").fill("I have crushing chest pain, what now?")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_role("complementary", name="Notice")).to_contain_text("This may be an emergency")


def test_a_vote_that_did_not_arrive_can_be_cast_again(page: Any, server: Scripted, run: Run) -> None:
    page.goto("/vote")
    expect(page.locator("#pair")).to_be_visible()
    page.route("**/api/votes", lambda route: route.abort("connectionrefused"))
    page.get_by_role("button", name="As good").click()
    expect(page.get_by_role("alert")).to_contain_text("Is “residency serve” still running?")
    page.unroute("**/api/votes")
    page.get_by_role("button", name="As good").click()
    expect(page.locator("#state")).to_contain_text("1 of 4 pairs")
    assert [row["vote"] for row in votes(run)] == ["tie"]


@pytest.mark.parametrize("path", ["/", "/vote", "/ratings", "/report"])
def test_a_phone_never_scrolls_sideways_and_every_control_has_a_name(path: str, page: Any, run: Run) -> None:
    run.write_text("report.html", "<!doctype html><p>All is well.</p>")
    for row in range(2):
        vote = {"question": f"Question {row}?", "a": "tuned", "b": "base", "vote": "ab"[row]}
        with run.path(VOTES).open("a") as file:
            file.write(json.dumps(vote) + "\n")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.goto(path)
    if path == "/":
        page.get_by_role("radio", name="Both").check()
        ask(page, "w" * 300)
        expect(last(page).first.locator(".foot")).to_contain_text("ended by itself")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    nameless = """() => [...document.querySelectorAll("button, input, textarea, a, iframe, img")].filter((one) =>
      one.checkVisibility() && !(one.labels?.length || one.textContent.trim() || one.ariaLabel || one.title || one.alt))
      .map((one) => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("navigation").get_by_role("link").count() == 4


def test_the_report_shows_in_its_frame(page: Any, run: Run) -> None:
    run.write_text("report.html", "<!doctype html><style>p { color: rgb(1, 2, 3) }</style><p>All is well.</p>")
    page.goto("/report")
    line = page.frame_locator("iframe").get_by_text("All is well.")
    expect(line).to_have_css("color", "rgb(1, 2, 3)")


def test_a_server_with_a_token_asks_for_it_once(browser: Any, run: Run) -> None:
    run.write_text("report.html", "<!doctype html><p>All is well.</p>")
    token = "a-token-of-some-length"
    with served(Scripted().app(run, token)) as address:
        context = browser.new_context(base_url=address)
        page = context.new_page()
        page.goto("/vote")
        page.get_by_label("Token").fill("another-token-of-some-length")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Go on").click()
        page.wait_for_url(f"{address}/")
        ask(page, "What helps?")
        expect(last(page).locator(".text")).to_have_text("clinic says rest.")
        page.goto("/report")
        expect(page.frame_locator("iframe").get_by_text("All is well.")).to_be_visible()
        context.clear_cookies()
        page.goto("/sign-in")
        assert token not in json.dumps(page.evaluate("({ ...localStorage, ...sessionStorage })"))
        context.close()
