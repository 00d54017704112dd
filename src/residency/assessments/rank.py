"""Ranking: votes on the answers of one run's systems or of several runs', and the ratings that follow from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residency import ranking
from residency.endpoint import LONGEST_REPLY, Endpoint
from residency.errors import UserError, listed, nearest
from residency.progress import Progress, Silent
from residency.ranking.metric import MARGIN, METRICS
from residency.ranking.ratings import RESAMPLES
from residency.workspace import VOTES, Run

if TYPE_CHECKING:
    from residency.ranking import Answered, Judged, Vote

RATINGS, PICTURE = "ratings.json", "ratings.svg"


@dataclass(frozen=True)
class Source:
    """Where the votes come from: a file, a judge model as URL#MODEL, a metric, or else what lies in the run folders.

    `key_env` names the environment variable with the judge's key. The judge is asked at temperature 0, or at the
    server's own where `temperature` is None, for `reply_tokens` at most. Answers whose metric differs by less than
    `margin` points are tied.
    """

    votes: Path | None = None
    judge: str | None = None
    key_env: str | None = None
    metric: str | None = None
    margin: float = MARGIN
    temperature: float | None = 0.0
    reply_tokens: int = LONGEST_REPLY

    def check(self) -> None:
        """Nothing, or a UserError where this is no one source."""
        given = [f"--{name}" for name in ("votes", "judge", "metric") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"rank: {' and '.join(given)} are given", "one of them", "leave the others out")
        if self.key_env and not self.judge:
            raise UserError("rank: --key-env names the key of a judge, and there is none", fix="add --judge URL#MODEL")
        if self.metric is not None and self.metric not in METRICS:
            raise UserError(
                f"--metric {self.metric}: unknown", f"one of {listed(METRICS)}", nearest(self.metric, METRICS)
            )


@dataclass(frozen=True)
class _Cast:
    """The votes, what they are to be told by, which of them to mind, and which were left out."""

    votes: Sequence[Vote]
    about: dict[str, Any]
    judged: Judged | None = None
    counted: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def rank(
    folders: Sequence[Path],
    source: Source,
    progress: Progress | None = None,
    *,
    out: Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    again: str = "residency rank",
) -> dict[str, Any]:
    """The ratings of the runs' systems; leaves `ratings.json`, `ratings.svg` and a judge's `votes.jsonl`.

    They lie in `evaluation/` of the first run, or in `out`. Returns what `ratings.json` holds. `again` is the command
    that goes on where the user stops.

    Raises:
        UserError: a run was not evaluated, the votes are malformed, an endpoint fails, or the votes can't be rated.
        Interrupted: stopped by the user; a judge's votes are kept.
    """
    progress = progress or Silent()
    progress.stage("Rank")
    source.check()
    runs = [Run.open(folder) for folder in folders]
    home, within = (_folder(out), "") if out else (runs[0], "evaluation/")
    with home.working(again):
        given = ranking.answered(runs)
        _say_answered(given, progress)
        cast = _cast(source, runs, given, home.path(within + Path(VOTES).name), progress)
        _say_judged(cast, progress)
        progress.say(f"{len(cast.votes):,} votes")
        found = ranking.rate(
            cast.votes,
            resamples=resamples,
            seed=seed,
            tell=lambda done, total: progress.step("Ratings of resampled questions", done, total),
        )
        content = _content(found, cast, given, runs)
        home.write_json(within + RATINGS, content)
        home.write_text(within + PICTURE, _picture(content))
        if not out:
            home.seal()
    return content


def _folder(out: Path) -> Run:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}", "a folder that can be written to") from None
    return Run(out)


def _cast(source: Source, runs: Sequence[Run], given: Answered, file: Path, progress: Progress) -> _Cast:
    if source.judge is not None:
        return _judged(source, given, file, progress)
    if source.metric is not None:
        return _measured(source, given, progress)
    if source.votes is not None:
        found = ranking.read_votes(source.votes, given.names)
        return _read(found.votes, {"kind": "votes", "file": str(source.votes)}, given)
    own = ranking.own_votes(runs, given)
    if not own.files:
        raise UserError(
            f"rank: no votes in {runs[0].folder / VOTES}",
            "votes",
            "add --votes FILE.jsonl, --judge URL#MODEL or --metric chrf, or vote on the pages of `residency serve`",
        )
    about = {"kind": "votes", "file": ", ".join(map(str, own.files))}
    return replace(_read(own.votes, about, given), left_out=own.left_out)


def _read(votes: Sequence[Vote], about: dict[str, Any], given: Answered) -> _Cast:
    known = {asked.question for asked in given.asked}
    elsewhere = sum(vote.question not in known for vote in votes)
    other = sum(not given.gave(vote) for vote in votes)
    return _Cast(votes, about, counted={"on_other_questions": elsewhere, "on_other_answers": other})


def _judged(source: Source, given: Answered, file: Path, progress: Progress) -> _Cast:
    endpoint = Endpoint.judge(source.judge or "", source.key_env, source.temperature, source.reply_tokens)
    voter = f"{endpoint.model} at {endpoint.address}"
    judging = ranking.Judging(file, voter)
    name = f"Asking {endpoint.model}"
    found = ranking.judge_votes(
        given.asked,
        given.systems,
        endpoint.ask,
        judging,
        lambda done, total: progress.step(name, done, total, "pairs"),
    )
    about = {"kind": "judge", "model": endpoint.model, "address": endpoint.address, "prompt": _prompt_version()}
    return _Cast(found.votes, about, judged=found)


def _prompt_version() -> str:
    """A short name for the wording that the judge is asked in."""
    from residency.ranking.judge import prompt

    empty = ranking.Asked("", "", {})
    return hashlib.sha256(prompt(empty, "", "").encode()).hexdigest()[:8]


def _measured(source: Source, given: Answered, progress: Progress) -> _Cast:
    from residency.evaluate.scores.score import overlap

    name = str(source.metric)
    votes = ranking.metric_votes(
        given.asked,
        given.systems,
        lambda answer, reference: overlap(answer, reference)[name.replace("-", "_")],
        margin=source.margin,
        voter=name,
        tell=lambda done, total: progress.step(f"Comparing by {name}", done, total, "questions"),
    )
    return _Cast(votes, {"kind": "metric", "metric": name, "margin": source.margin})


def _say_answered(given: Answered, progress: Progress) -> None:
    progress.say(f"{listed(given.systems)}: answers to {len(given.asked):,} questions")
    for label, count in given.left_out.items():
        if count:
            progress.say(f"{count:,} questions of {label} left out: not every run was asked them")


def _say_judged(cast: _Cast, progress: Progress) -> None:
    for what, count in cast.counted.items():
        if count:
            progress.say(f"{count:,} votes {what.replace('_', ' ')} than those of the runs; they count as well")
    for what, count in cast.left_out.items():
        if count:
            progress.say(f"{count:,} votes {what.replace('_', ' ')} left out")
    judged = cast.judged
    if judged is None:
        return
    progress.say(
        f"{judged.pairs:,} pairs: {judged.agreed:,} judged alike both times, {judged.first + judged.second:,} by their "
        f"place, {judged.wavered:,} a tie once, {judged.same:,} with the same answer twice, {judged.unread:,} with a "
        f"reply that can't be read; {judged.kept:,} had been judged before"
    )
    if judged.position_bias is not None:
        progress.say(f"Position bias: {100 * judged.position_bias:.0f}% of the pairs were judged by the place alone")


def _content(found: ranking.Ratings, cast: _Cast, given: Answered, runs: Sequence[Run]) -> dict[str, Any]:
    judged = asdict(cast.judged) | {"position_bias": cast.judged.position_bias} if cast.judged else None
    if judged:
        judged.pop("votes")
    rated = {one.system for one in found.systems}
    return {
        "source": cast.about,
        "runs": [str(run.folder) for run in runs],
        **asdict(found),
        "judge": judged,
        "voters": dict(Counter(vote.voter or "not named" for vote in cast.votes).most_common()),
        "questions_left_out": {label: count for label, count in given.left_out.items() if count},
        "votes_left_out": {"undecided": found.undecided, **cast.left_out},
        "votes_counted": cast.counted,
        "without_votes": [name for name in given.systems if name not in rated],
    }


def _picture(content: dict[str, Any]) -> str:
    from residency.report import ranked

    return ranked.picture_alone(content)
