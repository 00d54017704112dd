from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.errors import UserError
from residency.ranking import Ratings, Vote, rate
from residency.ranking.ratings import SCALE, Meeting, Rating, expected

pytest.importorskip("evalica", reason="ratings are evalica's: pip install 'residency[rank]'")

# Wins of the row over the column in the American League East of 1987, 13 games a pair: Agresti, Categorical Data
# Analysis (2nd edition, 2002), table 10.10 on page 437, and the data set `baseball` of the R package BradleyTerry2.
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = (
    (0, 7, 9, 7, 7, 9, 11),
    (6, 0, 7, 5, 11, 9, 9),
    (4, 6, 0, 7, 7, 8, 12),
    (6, 8, 6, 0, 6, 7, 10),
    (6, 2, 6, 7, 0, 7, 12),
    (4, 4, 5, 6, 6, 0, 6),
    (2, 4, 1, 3, 1, 7, 0),
)
# Log-abilities beside Baltimore's, from the vignette of BradleyTerry2, model `baseballModel1`
# (https://cran.r-project.org/web/packages/BradleyTerry2/vignettes/BradleyTerry.html).
ABILITIES = {
    "Milwaukee": 1.5814,
    "Detroit": 1.4364,
    "Toronto": 1.2945,
    "New York": 1.2476,
    "Boston": 1.1077,
    "Cleveland": 0.6839,
    "Baltimore": 0.0,
}


def season() -> list[Vote]:
    """Each game is a question of its own, so that games are what is resampled."""
    games = [
        (i, j, winner)
        for i, j in combinations(range(len(TEAMS)), 2)
        for winner in ["a"] * WINS[i][j] + ["b"] * WINS[j][i]
    ]
    return [Vote(f"game {place}", TEAMS[i], TEAMS[j], winner) for place, (i, j, winner) in enumerate(games)]


def simulated(strengths: dict[str, float], questions: int, seed: int, ties: float = 0.0) -> list[Vote]:
    """Votes of each pair on each question, as Bradley and Terry suppose them; some turned into ties by a coin."""
    rng = np.random.default_rng(seed)
    found = []
    for question in range(questions):
        for a, b in combinations(strengths, 2):
            winner = "a" if rng.random() < expected(strengths[a] - strengths[b]) else "b"
            found.append(Vote(f"question {question}", a, b, "tie" if rng.random() < ties else winner))
    return found


def by_name(found: Ratings) -> dict[str, Rating]:
    return {one.system: one for one in found.systems}


def met(found: Ratings, a: str, b: str) -> Meeting:
    return next(one for one in found.pairs if (one.a, one.b) == (a, b))


@pytest.fixture(scope="module")
def league() -> Ratings:
    return rate(season(), resamples=200)


def test_the_baseball_season_of_1987_has_the_published_abilities(league: Ratings) -> None:
    own = by_name(league)
    assert [one.system for one in league.systems] == list(TEAMS)
    for team, ability in ABILITIES.items():
        found = (own[team].rating.value - own["Baltimore"].rating.value) / SCALE
        assert found == pytest.approx(ability, abs=1e-4)
    assert np.mean([one.rating.value for one in league.systems]) == pytest.approx(1000)
    assert league.bounded == 0
    assert league.notes == []


def test_the_intervals_of_the_season_are_as_wide_as_the_published_errors(league: Ratings) -> None:
    # The vignette gives Milwaukee over Baltimore a standard error of 0.3433.
    spread = met(league, "Milwaukee", "Baltimore").difference
    assert (spread.high - spread.low) / (2 * 1.96 * SCALE) == pytest.approx(0.3433, rel=0.2)


def test_a_rank_counts_only_the_teams_that_are_shown_to_be_better(league: Ratings) -> None:
    ranks = {one.system: one.rank for one in league.systems}
    assert ranks["Milwaukee"] == ranks["Detroit"] == 1
    assert ranks["Baltimore"] >= 6


def test_expected_shares_are_those_of_elos_example() -> None:
    # A player of 1613 meets 1609, 1477, 1388, 1586 and 1720 (https://en.wikipedia.org/wiki/Elo_rating_system,
    # "Mathematical details", after Elo 1978): he is expected to score 0.51, 0.69, 0.79, 0.54 and 0.35.
    shares = [expected(1613 - other) for other in (1609, 1477, 1388, 1586, 1720)]
    assert [round(share, 2) for share in shares] == [0.51, 0.69, 0.79, 0.54, 0.35]


def test_elo_moves_as_its_formula_says() -> None:
    # R' = R + K (S - E), with K = 4 and equal players at first: E is one half.
    found = by_name(rate([Vote("q", "x", "y", "a")], resamples=100))
    assert (found["x"].elo.value, found["y"].elo.value) == (1002, 998)
    found = by_name(rate([Vote("q", "x", "y", "a"), Vote("r", "x", "y", "a")], resamples=100))
    assert found["x"].elo.value == pytest.approx(1002 + 4 * (1 - expected(4)))


def test_elo_does_not_hang_on_the_order_of_the_votes() -> None:
    votes = [Vote(f"q{place}", "x", "y", "a" if place < 30 else "b") for place in range(60)]
    found = by_name(rate(votes, resamples=100))
    assert found["x"].elo.value == pytest.approx(1000, abs=5)  # in the order given y is far ahead at the end
    assert rate(votes[::-1], resamples=100) == rate(votes, resamples=100)


@pytest.mark.parametrize("seed", range(3))
def test_known_strengths_are_found_again(seed: int) -> None:
    strengths = {"alpha": 1150.0, "beta": 1050.0, "gamma": 1000.0, "delta": 950.0, "epsilon": 850.0}
    found = rate(simulated(strengths, 400, seed), resamples=200, seed=seed)
    own = by_name(found)
    assert all(own[name].rating.value == pytest.approx(value, abs=30) for name, value in strengths.items())
    covered = [own[name].rating.low <= value <= own[name].rating.high for name, value in strengths.items()]
    assert sum(covered) >= 4
    assert all(own[name].elo.value == pytest.approx(value, abs=30) for name, value in strengths.items())


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = {"x": 1050.0, "y": 950.0}
    covered = 0
    for seed in range(25):
        spread = met(rate(simulated(truth, 80, seed), resamples=100, seed=seed), "x", "y").difference
        covered += spread.low <= 100 <= spread.high
    assert covered >= 21  # of 25; a 95% interval misses more than four about once in a hundred times


@settings(max_examples=10, deadline=None)
@given(
    votes=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from([("x", "y"), ("y", "z"), ("x", "z")]),
            st.sampled_from(["a", "b", "tie", "both bad", ""]),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_which_system_is_called_a_changes_nothing(votes: list[tuple[int, tuple[str, str], str, bool]]) -> None:
    plain = [Vote(f"q{q}", a, b, winner) for q, (a, b), winner, _ in votes]
    plain += [Vote("q", "x", "y", "tie"), Vote("q", "y", "z", "tie")]
    swapped = [
        Vote(vote.question, vote.b, vote.a, {"a": "b", "b": "a"}.get(vote.winner, vote.winner)) if swap else vote
        for vote, swap in zip(plain, [*(one[3] for one in votes), True, False], strict=True)
    ]
    found = rate(plain, resamples=100)
    assert rate(swapped, resamples=100) == found
    assert all(math.isfinite(value) for one in found.systems for value in (one.rating.low, one.rating.high))
    assert found.votes + found.undecided == len(plain)


def test_votes_on_one_question_are_no_new_evidence() -> None:
    votes = simulated({"x": 1050.0, "y": 950.0}, 60, 1)
    once, often = (met(rate(votes * times, resamples=300), "x", "y").difference for times in (1, 10))
    assert often.value == pytest.approx(once.value, abs=0.1)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.05)


def test_both_bad_is_a_tie_and_counted() -> None:
    winners = ["a"] * 6 + ["b"] * 2 + ["tie", "both bad"] + [""] * 3
    found = rate([Vote(f"q{place}", "x", "y", winner) for place, winner in enumerate(winners)], resamples=100)
    pair = met(found, "x", "y")
    assert (pair.wins, pair.losses, pair.ties, pair.both_bad, found.undecided) == (6, 2, 2, 1, 3)
    assert pair.share is not None
    assert pair.share.value == pytest.approx(0.7)
    assert pair.foreseen == pytest.approx(0.7)  # of two systems the ratings foresee just what was seen


def test_who_won_every_vote_is_far_ahead_and_it_is_said_that_nobody_knows_how_far() -> None:
    found = rate([Vote(f"q{place}", "x", "y", "a") for place in range(20)], resamples=100)
    # One tie more: 20.5 wins to a half.
    assert met(found, "x", "y").difference.value == pytest.approx(400 * math.log10(20.5 / 0.5), abs=0.01)
    assert "x won every vote" in found.notes[0]
    assert found.bounded == 1


def test_systems_that_were_never_compared_are_named() -> None:
    votes = [Vote("q", "a1", "a2", "a"), Vote("q", "a2", "a3", "b"), Vote("q", "b1", "b2", "tie")]
    with pytest.raises(UserError, match="a1, a2, a3 and b1, b2 were never compared, not even through other systems"):
        rate(votes, resamples=100)


def test_votes_that_decide_nothing_are_an_error() -> None:
    with pytest.raises(UserError, match="none of 2 decides anything"):
        rate([Vote("q", "x", "y", ""), Vote("r", "x", "y", "")])
