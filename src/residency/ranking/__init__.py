"""Which system gives the better answers: votes of people, of a judge model or of a metric, and their ratings."""

from residency.ranking.judge import Judged, Judging, judge_votes
from residency.ranking.metric import metric_votes
from residency.ranking.own import Own, own_votes
from residency.ranking.ratings import Ratings, rate
from residency.ranking.systems import Answered, Asked, answered
from residency.ranking.votes import CHOICES, Vote, Votes, append, read_votes, row_of

__all__ = [
    "CHOICES",
    "Answered",
    "Asked",
    "Judged",
    "Judging",
    "Own",
    "Ratings",
    "Vote",
    "Votes",
    "answered",
    "append",
    "judge_votes",
    "metric_votes",
    "own_votes",
    "rate",
    "read_votes",
    "row_of",
]
