"""Which system gives the better answers: votes of people, of a judge model or of a metric, and their ratings."""

from residency.ranking.judge import Judged, Judging, judge_votes
from residency.ranking.metric import metric_votes
from residency.ranking.ratings import Ratings, rate
from residency.ranking.systems import Answered, Asked, answered
from residency.ranking.votes import Vote, Votes, read_votes

__all__ = [
    "Answered",
    "Asked",
    "Judged",
    "Judging",
    "Ratings",
    "Vote",
    "Votes",
    "answered",
    "judge_votes",
    "metric_votes",
    "rate",
    "read_votes",
]
