"""What the pages are reached under: four pages, their files, pairs and votes."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, StringConstraints

from residency.errors import UserError
from residency.guard import Guard
from residency.ranking.systems import ANSWERS
from residency.serve.door import COOKIE, SIGN_IN, cookie
from residency.serve.pages.ballot import Ballots, NotOpen, Pair, Progress
from residency.serve.pages.board import Board
from residency.serve.refused import Refused
from residency.workspace import Run

Live = Callable[[str, Request], Awaitable[Mapping[str, str]]]

REPORT = "report.html"
PAGES = (("", "Chat"), ("vote", "Vote"), ("ratings", "Ratings"), ("report", "Report"))
KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
LONGEST = 8000  # characters of a visitor's own question
ISOLATED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
SAFE = {
    # Nothing from elsewhere, nothing inline, and no text that becomes markup (trusted types).
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Said = Annotated[str, StringConstraints(strip_whitespace=True)]


class Wanted(BaseModel):
    """A pair that is asked for: of a held-out question, or of a question of the visitor's own."""

    voter: Said = ""
    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)] | None = None


class Cast(BaseModel):
    """A vote on the pair `id`; `reveal` asks which system gave which answer, once the vote is kept."""

    id: str
    vote: Literal["a", "b", "tie", "both bad"]
    why: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)] = ""
    voter: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)] = ""
    reveal: bool = False


class Token(BaseModel):
    """What a server for others than this machine asks for."""

    token: Said


def router(run: Run, live: Live | None = None, token: str | None = None) -> APIRouter:
    """The pages of a run, and one more that takes the `token` where there is one.

    `live` answers a question by two systems, where two are served: their names and answers. It is given the request as
    well, so that it may stop when nobody waits any more.
    """
    found = APIRouter(include_in_schema=False)
    _pages(found, run, live is not None)
    _ratings(found, run)
    _report(found, run)
    _votes(found, run, live)
    if token is not None:
        _sign_in(found, run, token)
    return found


def _pages(found: APIRouter, run: Run, live: bool) -> None:
    @found.get("/")
    def chat() -> HTMLResponse:
        return _page(run, "chat", "", system=run.recipe.prompt.system)

    @found.get("/vote")
    def vote() -> HTMLResponse:
        why_not = f"no answers lie in {run.folder / ANSWERS}, which `residency evaluate` makes"
        held_out = (run.folder / ANSWERS).is_file()
        return _page(run, "vote", "vote", held_out=held_out, live=live, longest=LONGEST, why_not=why_not)

    @found.get("/pages/{name}")
    def file(name: str) -> Response:
        held = _files().get(name)
        if held is None:
            raise Refused(404, f"no file {name}")
        return Response(held, media_type=KINDS[name.rpartition(".")[2]], headers=SAFE)


def _ratings(found: APIRouter, run: Run) -> None:
    board = Board(run)

    @found.get("/ratings")
    def ratings() -> HTMLResponse:
        try:
            shown: dict[str, Any] = {"trouble": "", **vars(board.standing())}
        except UserError as error:
            shown = {"trouble": f"{_sentence(error)}."}
        return _page(run, "ratings", "ratings", folder=run.folder, **shown)

    @found.get("/ratings.svg")
    def picture() -> Response:
        try:
            drawn = board.standing().picture
        except UserError as error:
            raise Refused(404, str(error)) from None
        return Response(drawn, media_type=KINDS["svg"], headers={**SAFE, "Content-Security-Policy": ISOLATED})


def _report(found: APIRouter, run: Run) -> None:
    path = run.folder / REPORT

    @found.get("/report")
    def report() -> HTMLResponse:
        there = path.is_file()
        written = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M") if there else ""
        return _page(run, "report", "report", there=there, written=written, folder=run.folder)

    @found.get("/report/page")
    def alone() -> Response:
        if not path.is_file():
            raise Refused(404, f"no report: `residency report {run.folder}` makes one")
        # It brings its styles with it and no script; in a sandbox it could not reach the other pages if it did.
        headers = {**SAFE, "Content-Security-Policy": f"sandbox allow-popups; {ISOLATED}"}
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


def _votes(found: APIRouter, run: Run, live: Live | None) -> None:
    ballots, guard = Ballots(run), Guard.of(run.recipe)

    @found.post("/api/pairs", dependencies=[Depends(same_site)])
    async def pairs(wanted: Wanted, request: Request) -> dict[str, Any]:
        if wanted.question is None:
            return await run_in_threadpool(lambda: _shown(*_of_user(lambda: ballots.held_out(wanted.voter))))
        if live is None:
            raise Refused(409, "only one model is served; `residency serve --compare` serves the base beside it")
        question = wanted.question
        answers = await live(question, request)
        # Of the question alone: what a rule says of an answer would tell the two apart.
        notices = await run_in_threadpool(lambda: guard.look(question, first=True)) if guard else []
        shown = _shown(*ballots.own(question, answers), Progress(0, 0))
        return shown | {"guard": [notice.entry() for notice in notices]}

    @found.post("/api/votes", dependencies=[Depends(same_site)])
    def votes(cast: Cast) -> dict[str, Any]:
        pair = _of_user(lambda: ballots.vote(cast.id, cast.vote, cast.why, cast.voter))
        return {"a": pair.a, "b": pair.b} if cast.reveal else {}


def _sign_in(found: APIRouter, run: Run, token: str) -> None:
    @found.get(SIGN_IN)
    def asked() -> HTMLResponse:
        return _page(run, "sign-in", SIGN_IN[1:])

    @found.post(SIGN_IN, dependencies=[Depends(same_site)])
    def given(sent: Token, request: Request, response: Response) -> dict[str, Any]:
        if not hmac.compare_digest(sent.token.encode(), token.encode()):
            raise Refused(403, "That is not the token.", "invalid_api_key")
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie(token), httponly=True, samesite="lax", secure=secure)
        return {}


def same_site(request: Request) -> None:
    """Refuse what another site's page sends through the visitor's browser."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "this was sent by a page of another site")


def _of_user(work: Callable[[], Any]) -> Any:
    """The result of some work; an error that a user can cause becomes an answer that says it."""
    try:
        return work()
    except NotOpen as error:
        raise Refused(410, _sentence(error)) from None
    except UserError as error:
        raise Refused(409, _sentence(error)) from None


def _shown(number: str, pair: Pair, progress: Progress) -> dict[str, Any]:
    """A pair as the browser sees it: nothing in it tells the systems apart but their answers."""
    asked = pair.asked
    return {
        "id": number,
        "question": _whole(asked.question),
        "before": {"system": _whole(asked.system), "history": [tuple(map(_whole, turn)) for turn in asked.history]},
        "answers": [_whole(asked.answers[pair.a]), _whole(asked.answers[pair.b])],
        "progress": vars(progress),
    }


def _whole(text: str) -> str:
    """A text without halves of surrogate pairs, which no response can hold."""
    return text.encode("utf-8", "replace").decode()


def _page(run: Run, page: str, path: str, **values: Any) -> HTMLResponse:
    text = (
        _templates()
        .get_template(f"{page}.html")
        .render(name=run.recipe.name, page=page, path=path, pages=PAGES, **values)
    )
    return HTMLResponse(text, headers=SAFE)


def _sentence(error: UserError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("residency.serve.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(maxsize=1)
def _files() -> dict[str, bytes]:
    """The pages' files by name: these few are all that is handed out."""
    folder = resources.files("residency.serve.pages") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in KINDS}
