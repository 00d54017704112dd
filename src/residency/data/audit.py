"""What the data is worth, before it is paid for: lengths in tokens, sentences that recur, rows better not learnt from.

The masks of rows favour silence: a row that may be in order is not named. All of it runs in polars, a quarter of a
million rows in seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

SHORTEST = 4  # words of a sentence that can be boilerplate
LEAST_ROWS = 3
LEAST_SHARE = 0.01
SHOWN = 10

CONTRADICTS = 0.1  # Jaccard similarity of three-word shingles under which answers are worded otherwise
PART_OF = 0.5  # share of the shorter answer's shingles from which it is the other answer, shortened
MOST_ANSWERS = 50  # different answers to one question; over this it is an instruction and no question
COMPARED = 100  # words of each answer, from its beginning

SENTENCE = 10  # words of an answer that can be cut off; shorter ones are often no sentence
ENDING = 400  # characters that tell whether an answer was cut off
CAPITALS = 0.15  # capitals in mid-sentence, a word: German has about 0.25, English hardly any
SEEN = 1000  # answers that tell it
CLOSED_SHARE = 0.5  # of the answers that end in punctuation, for its lack to mean anything

ASKED = 4  # words of a question that can be copied; answers repeat shorter ones by chance
COPIED = 0.9  # share of the question's words that a copy holds
ADDED = 0.2  # words that a copy adds, at most, as a share of the question's
LONGER = 1.3  # times as many words as the question, at most

SHORT = 3  # words of a short answer, at most; two characters of Chinese or Japanese are one word
SHORT_LENGTH = 60  # characters from which the words need not be counted

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # no blanks between words
_WORD = rf"[{_UNSPACED}]{{1,2}}|[\w--[{_UNSPACED}]]+"
_END = r"[.!?。！？।؟][\"'”’»)\]]*(?:\s+|$)"
_CLOSED = r"[^\p{L}\p{M}\p{N}\s,;:(–—-]$"
_DOTS = r"\w\s*(?:…|\.\.\.)$"
# A capital at the end of an answer is a name: of the author, or of the office that publishes it.
_IN_SENTENCE = r"(?:(?:^|[\s(/–-])\p{Ll}[\p{Ll}\p{M}'’-]*|[\p{Lo}\p{M}]|[\w)\]][,;(–—-])$"
_DANGLING = (
    r"(?i)(?:\s(?:and|or|but|the|an?|of|to|in|with|for|from|by|at|as|than|is|are|was|were|be|has|have|can|may|will|"
    r"should|your|this|these|that|which|who|if|because)|\w,)$"
)
_SIGNED = r"(?i)\b(?:regards|thanks|thank you|sincerely|cheers|take care|best wishes|good luck)\W*(?:\w+\W*){0,3}$"
_ADDRESS = r"(?i)(?:https?://|www\.)\S+$|\S+\.(?:gov|org|com|net|edu)\S*$"
_LISTED = r"(?:^|\s)(?:[-*•·–]|\d{1,2}[.)])\s"
_CAPITAL = r"[\p{Ll}\d)]\s\p{Lu}[\p{Ll}-]"
_CODE = r"```|[{}<>]|\);$"


def lengths(tokens: list[int]) -> dict[str, float]:
    """Percentiles of lengths in tokens; empty for no rows."""
    if not tokens:
        return {}
    values = np.array(tokens)
    low, median, high, top = np.percentile(values, [5, 50, 95, 99])
    return {
        "p5": float(low),
        "median": float(median),
        "p95": float(high),
        "p99": float(top),
        "longest": int(values.max()),
        "total": int(values.sum()),
    }


def histogram(tokens: list[int], bins: int = 24) -> dict[str, list[float]]:
    """Counts and edges of a histogram of lengths in tokens."""
    counts, edges = np.histogram(np.array(tokens), bins=bins)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def boilerplate(answers: list[str]) -> list[dict[str, Any]]:
    """Sentences of four or more words that recur in at least three answers and 1% of them, the commonest first."""
    least = max(LEAST_ROWS, LEAST_SHARE * len(answers))
    ended = pl.col("text").str.replace_all(r"([.!?>])\s+", "${1}\x1f").str.split("\x1f")
    rows = pl.DataFrame({"text": answers}, schema={"text": pl.String}).with_row_index("row")
    sentences = rows.select("row", ended).explode("text", empty_as_null=True).with_row_index("place")
    sentences = sentences.with_columns(pl.col("text").str.strip_chars()).with_columns(same=pl.col("text").hash())
    often = sentences.group_by("same").agg(pl.col("row").len(), pl.col("text").first()).filter(pl.col("row") >= least)
    often = often.filter(pl.col("text").str.count_matches(r"\S+") >= SHORTEST).select("same")
    counts = (
        sentences.join(often, on="same", how="semi")
        .group_by("same")
        .agg(pl.col("text").first(), pl.col("row").n_unique(), pl.col("place").min())
    )
    # Ties keep the order of the text.
    counts = counts.filter(pl.col("row") >= least).sort(["row", "place"], descending=[True, False]).head(SHOWN)
    return [{"text": text, "rows": rows, "share": rows / len(answers)} for _, text, rows, _ in counts.iter_rows()]


def contradicting(rows: pl.DataFrame) -> pl.Series:
    """Rows [rows] whose question is also answered otherwise: all rows of that question.

    Otherwise means that two answers share hardly a run of three words and neither is a part of the other, or that one
    begins with yes and one with no.
    """
    several = _asked_again(rows)
    answers = several.unique(["key", "same"], keep="first", maintain_order=True).with_columns(text=_plain("text"))
    questions = _yes_and_no(answers) | _worded_otherwise(answers)
    return _mask(rows, several.filter(pl.col("key").is_in(list(questions)))["place"])


def truncated(rows: pl.DataFrame) -> pl.Series:
    """Answers [rows] that stop in mid-sentence or end in dots; lists, code, addresses and signatures aside.

    Where most answers end without punctuation, only those that end in a comma or a word like "and" are named.
    """
    tail = pl.col("tail")
    tails = rows.select(tail=pl.col("answer").str.strip_chars_end().str.tail(ENDING)).with_row_index("place")
    is_open = ~tails["tail"].str.contains(_CLOSED)
    mostly_closed = float(is_open.mean() or 0) <= 1 - CLOSED_SHARE  # type: ignore[arg-type]
    nouns = _nouns_have_capitals(tails.head(SEEN))
    tails = tails.filter(is_open | tail.str.contains(_DOTS)).filter(tail.str.count_matches(_WORD) >= SENTENCE)
    tails = tails.with_columns(last=tail.str.extract(rf"(?s)^(?:.*{_END})?(.*)$").str.strip_chars())
    last = pl.col("last")
    cut = last.str.contains(_IN_SENTENCE) & (tail.str.contains(_END) | mostly_closed) & ~_listed(tail, last, nouns)
    other = tail.str.contains(_CODE) | last.str.contains(_SIGNED) | last.str.contains(_ADDRESS)
    cut = (cut | last.str.contains(_DANGLING)) & ~other  # an item of a list may end in a word, but not in "and"
    return _mask(rows, tails.filter(cut | tail.str.contains(_DOTS))["place"])


def _listed(tail: pl.Expr, last: pl.Expr, nouns: bool) -> pl.Expr:
    """Whether a text ends in a list; of one whose line breaks are lost, capitals remain, but not in German."""
    items = last.str.contains(_LISTED) | (tail.str.count_matches(_LISTED) >= 3)
    return items if nouns else items | (last.str.count_matches(_CAPITAL) >= 2)


def _nouns_have_capitals(tails: pl.DataFrame) -> bool:
    tail = pl.col("tail")
    capitals = tails.select(tail.str.count_matches(_CAPITAL) / tail.str.count_matches(_WORD)).to_series()
    return float(capitals.fill_nan(0).median() or 0) >= CAPITALS  # type: ignore[arg-type]


def copied(rows: pl.DataFrame) -> pl.Series:
    """Answers [rows] that say the question again and hardly more; a yes, a no or a number is more."""
    near = pl.col("answer").str.len_chars() <= 2 * pl.col("question").str.len_chars() + 20
    texts = rows.select("answer", "question").with_row_index("place").filter(near)
    texts = texts.select("place", q=_plain("question"), a=_plain("answer")).filter(pl.col("a") != "")
    asked, said = pl.col("q").str.split(" "), pl.col("a").str.split(" ")
    texts = texts.with_columns(
        asked=asked.list.unique(), said=said.list.unique(), longer=said.list.len() / asked.list.len()
    )
    added = pl.col("said").list.set_difference("asked")
    size = pl.col("asked").list.len()
    holds = pl.col("asked").list.set_intersection("said").list.len() >= COPIED * size
    repeats = pl.col("a").str.starts_with(pl.col("q")) | holds
    little = (added.list.len() <= ADDED * size) & (pl.col("longer") <= LONGER)
    says = pl.col("a").str.contains(r"^(?:yes|no)\b") | added.list.join(" ").str.contains(r"\d")
    return _mask(rows, texts.filter((size >= ASKED) & repeats & little & ~says)["place"])


def short(rows: pl.DataFrame) -> pl.Series:
    """Answers [rows] of three words or fewer."""
    long = pl.col("answer").str.len_chars() > SHORT_LENGTH
    words = pl.when(long).then(SHORT + 1).otherwise(pl.col("answer").str.count_matches(_WORD))
    return rows.select(words <= SHORT).to_series()


def asked(rows: pl.DataFrame) -> pl.Series:
    """The question of each row [rows] without capitals and punctuation; empty for a conversation's later turns.

    "And at night?" is the same question in many conversations, and not the same case.
    """
    key = rows.select(_plain("question")).to_series()
    if "turn" not in rows.columns:
        return key
    return rows.select(pl.when(pl.col("turn") == 0).then(key).otherwise(pl.lit(""))).to_series()


def _asked_again(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows (place, key, text, same) whose question has from two to fifty different answers; `same` is a hash."""
    several = pl.DataFrame({"key": asked(rows), "text": rows["answer"]}).with_row_index("place")
    several = several.filter((pl.col("key") != "") & pl.col("key").is_duplicated())
    several = several.with_columns(same=pl.col("text").hash())
    return several.filter(pl.col("same").n_unique().over("key").is_between(2, MOST_ANSWERS))


def _yes_and_no(answers: pl.DataFrame) -> set[str]:
    sides = answers.select("key", side=pl.col("text").str.extract(r"^(yes|no)\b")).drop_nulls()
    return set(sides.group_by("key").n_unique().filter(pl.col("side") > 1)["key"])


def _worded_otherwise(answers: pl.DataFrame) -> set[str]:
    """The questions whose first answer shares too little with another one."""
    texts = answers.with_columns(first=pl.col("place").first().over("key"), start=pl.col("text").first().over("key"))
    sets = _shingles(texts)
    sizes = sets.group_by("place").len("own")
    own = sets.join(texts.select("place", "first"), on="place")
    shared = own.join(sets, left_on=["first", "shingle"], right_on=["place", "shingle"]).group_by("place").len("both")
    pairs = (
        texts.filter(pl.col("place") != pl.col("first")).join(sizes, on="place").join(shared, on="place", how="left")
    )
    pairs = pairs.join(sizes.rename({"place": "first", "own": "other"}), on="first")
    pairs = pairs.with_columns(pl.col("own", "other", "both").fill_null(0).cast(pl.Float64))
    apart = pl.col("both") / (pl.col("own") + pl.col("other") - pl.col("both")) < CONTRADICTS
    part = pl.col("both") / pl.min_horizontal("own", "other") >= PART_OF
    begins = pl.col("text").str.starts_with(pl.col("start")) | pl.col("start").str.starts_with(pl.col("text"))
    return set(pairs.filter(apart & ~part & ~begins)["key"])


def _shingles(texts: pl.DataFrame) -> pl.DataFrame:
    """The runs of three words of each text, hashed (place, shingle), once each; a shorter text is one shingle."""
    words = texts.select("place", word=pl.col("text").str.split(" ").list.head(COMPARED))
    whole = words.filter(pl.col("word").list.len() < 3).select("place", shingle=pl.col("word").list.join(" ").hash())
    flat = words.explode("word", empty_as_null=True)
    run = pl.col("word").hash(1) ^ pl.col("word").shift(-1).hash(2) ^ pl.col("word").shift(-2).hash(3)
    runs = flat.select("place", shingle=run, inside=pl.col("place") == pl.col("place").shift(-2)).filter("inside")
    return pl.concat([runs.select("place", "shingle"), whole]).unique()


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ").str.strip_chars()


def _mask(rows: pl.DataFrame, places: pl.Series) -> pl.Series:
    mask = np.zeros(rows.height, dtype=bool)
    mask[places.to_numpy()] = True
    return pl.Series(mask)
