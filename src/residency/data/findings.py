"""What the audit says of the kept rows: each finding with its size, rows to look at, and what to put in the recipe.

Thresholds stand beside what they decide. A finding is never more than a reason to look: the rows stay, unless the
recipe names the finding in `data.drop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from residency import languages
from residency.data import audit, preferences, privacy
from residency.errors import listed

Severity = Literal["problem", "warning", "note"]
Side = Literal["opening", "closing"]

NEVER = 2.0  # a share that no finding reaches
SHOWN = 5  # rows of a finding
CUT = 200  # characters of a row that is shown
STOCK_WINDOW = 160  # characters at an end of an answer in which stock phrases are looked for
STOCK_WORDS = {"opening": 3, "closing": 4}  # words that make a stock phrase where they recur
STOCK_EACH = {"opening": 0.05, "closing": 0.01}  # share of the answers that one phrase has; specialists' names differ
STOCK_SHARE = {"opening": 0.2, "closing": 0.05}  # share of all phrases together from which they are a finding
STOCK_LONGEST = 12  # words of a phrase that is shown
NEAR_LIMIT = 0.9  # of max_length
SKEWED_ROWS = 100  # fewer rows have no distribution to speak of
LONGEST_ROWS = 0.05  # the longest rows, as a share of all
SKEWED = 0.33  # share of all answer tokens that the longest rows hold
MOST = 0.5  # share of the rows that ask one question

AMONG_PAIRS = "contradicting-answers"  # a question may be asked of several pairs, and their answers differ

HTML = r"(?i)</?(?:p|br|div|span|a|b|i|ul|ol|li|table|tr|td|h[1-6]|strong|em)\b[^<>]*>|&(?:nbsp|amp|lt|gt|quot|#\d+);"
AROUND = 80  # characters on both sides of a special token that is shown


@dataclass(frozen=True)
class Finding:
    """Something that the rows show: how many, which for example, and what to do about it.

    `share` is of the kept rows, or of kept and dropped ones where dropped rows are counted. `examples` are up to five
    (row, text up to about 200 characters).
    """

    kind: str
    severity: Severity
    count: int
    share: float
    examples: tuple[tuple[int, str], ...]
    advice: str


@dataclass(frozen=True)
class Rule:
    """A kind of rows that `data.drop` can name; the shares of the rows from which it is a warning, and a problem."""

    rows: Callable[[pl.DataFrame], pl.Series]
    levels: tuple[float, float]
    advice: str


RULES = {
    "contradicting-answers": Rule(
        audit.contradicting,
        (0.01, NEVER),
        "The same question has wholly different answers: put what tells them apart into data.context, or add "
        "contradicting-answers to data.drop, which leaves out all of them.",
    ),
    "truncated-answers": Rule(
        audit.truncated,
        (0.01, 0.1),
        "They stop in mid-sentence: mend the source, or add truncated-answers to data.drop.",
    ),
    "copied-questions": Rule(
        audit.copied, (0.005, 0.05), "They only repeat the question: add copied-questions to data.drop."
    ),
    "short-answers": Rule(
        audit.short,
        (0.05, NEVER),
        "A model that learns these answers in a word or two: add short-answers to data.drop if it should explain.",
    ),
    "other-languages": Rule(
        languages.other_languages,
        (0.005, 0.2),
        "They are hardly in the language of most: add other-languages to data.drop, or keep them if both are wanted.",
    ),
}


def findings(
    rows: pl.DataFrame,
    max_length: int,
    leak: int,
    dropped: Mapping[str, int] | None = None,
    *,
    special: Sequence[str] = (),
    redacted: bool = False,
) -> list[Finding]:
    """All findings in kept rows, the most severe first.

    `rows` has row, question, answer, prompt_tokens, answer_tokens and cluster. `leak` is how many test rows would have
    had a near-duplicate in training after a plain random split; `dropped` the rows dropped for each reason; `special`
    the tokenizer's own tokens as text; `redacted` whether personal data was replaced, so that none need be looked for.
    """
    if rows.is_empty():
        return []
    paired = "rejected" in rows.columns
    found = [
        _one_question(rows),
        *(_ruled(rows, kind, rule) for kind, rule in RULES.items() if not (paired and kind == AMONG_PAIRS)),
        *(_pairs(rows) if paired else []),
        *_lengths(rows, max_length, dropped or {}),
        *_leftovers(rows),
        *([] if redacted else [_private(rows)]),
        *([_special(rows, special)] if special else []),
        _boilerplate(rows),
        _stock(rows, "closing", "Add stock-closings to data.clean; what its patterns miss, add to data.closings."),
        _stock(rows, "opening", "No cleaning step takes openings out: shorten the answers in data.source."),
        _near_duplicates(rows, leak),
    ]
    order = {"problem": 0, "warning": 1, "note": 2}
    return sorted((f for f in found if f.count), key=lambda f: (order[f.severity], -f.count))


def _ruled(rows: pl.DataFrame, kind: str, rule: Rule) -> Finding:
    """A finding of a rule; of languages, which take their time, on some rows of a large table."""
    some = languages.spread(rows) if kind == "other-languages" else rows
    said = f"Of {some.height:,} rows looked at: " if some.height < rows.height else ""
    return _marked(some, kind, rule.rows(some), said + rule.advice, rule.levels)


def rows_of(rows: pl.DataFrame, kind: str) -> pl.Series:
    """Which rows [rows] a finding that `data.drop` can name is about."""
    return RULES[kind].rows(rows)


def _marked(
    rows: pl.DataFrame, kind: str, which: pl.Series, advice: str, levels: tuple[float, float] = (NEVER, NEVER)
) -> Finding:
    """A finding about marked rows; `levels` are the shares of the rows from which it is a warning, and a problem."""
    count = int(which.sum())
    share = count / max(rows.height, 1)
    severity: Severity = "problem" if share >= levels[1] else "warning" if share >= levels[0] else "note"
    some = rows.filter(which).head(SHOWN).select("row", "question", "answer")
    return Finding(kind, severity, count, share, tuple((row, _shown(q, a)) for row, q, a in some.iter_rows()), advice)


def _shown(question: str, answer: str) -> str:
    text = f"{question} → {answer}" if question else answer
    return text if len(text) <= CUT else f"{text[: CUT // 2 - 2]} … {text[1 - CUT // 2 :]}"


def _lengths(rows: pl.DataFrame, limit: int, dropped: Mapping[str, int]) -> list[Finding]:
    """Rows over the limit, cut at it or near it, and few rows that hold many of the answer tokens."""
    tokens = rows["prompt_tokens"] + rows["answer_tokens"]
    near = (tokens > NEAR_LIMIT * limit) & (tokens <= limit)
    raise_it = "Raise model.max_length if answers of this length matter."
    cut = "Answers are cut at the limit and learnt without an end: raise model.max_length or set data.overlong: drop."
    return [
        _dropped(rows, "rows-over-limit", dropped.get("over max_length", 0), "Raise model.max_length to keep them."),
        _dropped(
            rows,
            "prompts-over-limit",
            dropped.get("prompt over max_length", 0),
            "Their prompts alone fill the limit: raise model.max_length to keep them.",
        ),
        _marked(rows, "cut-answers", tokens > limit, cut, (0.0, 0.1)),
        _marked(rows, "near-the-limit", near, raise_it),
        _skewed(rows),
    ]


def _dropped(rows: pl.DataFrame, kind: str, count: int, advice: str) -> Finding:
    share = count / (rows.height + count)
    return Finding(kind, "warning" if share >= 0.01 else "note", count, share, (), advice)


def _skewed(rows: pl.DataFrame) -> Finding:
    """The longest answers, where they hold a third of all answer tokens, over which the loss is a mean."""
    longest = max(int(LONGEST_ROWS * rows.height), 1)
    which = rows["answer_tokens"].rank("ordinal", descending=True) <= longest
    share = float(rows["answer_tokens"].filter(which).sum()) / max(int(rows["answer_tokens"].sum()), 1)
    told = which if rows.height >= SKEWED_ROWS and share >= SKEWED else which & False
    advice = f"They hold {share:.0%} of the answer tokens that are learnt: lower model.max_length to leave them out."
    return _marked(rows, "skewed-lengths", told, advice)


def _leftovers(rows: pl.DataFrame) -> list[Finding]:
    """What cleaning should have taken out: HTML, and the placeholders that stand for personal data."""
    code = rows["answer"].str.contains("```", literal=True)
    said = rows["answer"].str.contains(privacy.PLACEHOLDER.pattern)
    return [
        _marked(rows, "html", rows["answer"].str.contains(HTML) & ~code, "Add html to data.clean.", (0.0, 0.2)),
        _marked(
            rows,
            "placeholders",
            said,
            "The model learns to say [EMAIL] and [PHONE]: add such closings to data.closings.",
            (0.05, NEVER),
        ),
    ]


def _private(rows: pl.DataFrame) -> Finding:
    """Rows with personal data. The examples are the redacted rows: what is private is counted and never shown."""
    clean, counts = privacy.redact(rows)
    columns = [name for name in privacy.COLUMNS if name in rows.columns]
    which = rows.select(columns).hash_rows() != clean.select(columns).hash_rows()
    advice = f"Personal data is learnt ({privacy.told(counts)}): set data.redact: true."
    return _marked(clean, "personal-data", which, advice, (0.0, 0.0))


def _pairs(rows: pl.DataFrame) -> list[Finding]:
    """Pairs that somebody has the other way round, and many whose chosen answer is the longer one."""
    return [
        _marked(
            rows,
            "opposite-preferences",
            preferences.opposite(rows),
            "People disagree on these pairs, which then teach nothing: settle them in data.source, or set "
            "train.dpo.loss_type: robust.",
            (0.01, 0.2),
        ),
        _marked(
            rows,
            "longer-is-chosen",
            preferences.longer(rows),
            "The longer answer is mostly the chosen one, and length is what is learnt first: add pairs whose better "
            "answer is the shorter one, and look at the length of the tuned model's answers.",
            (0.0, NEVER),
        ),
    ]


def _special(rows: pl.DataFrame, tokens: Sequence[str]) -> Finding:
    """Texts that have a token of the tokenizer written out: it is read as that token, and can end an answer early."""
    columns = [name for name in ("system", "question", "answer", "rejected") if name in rows.columns]
    texts = rows.select(pl.concat_str(columns, separator=" → ")).to_series()
    which = texts.str.contains_any(list(tokens))
    token = "|".join(map(pl.escape_regex, tokens))
    found = texts.filter(which).str.extract(f"({token})").unique(maintain_order=True).to_list()
    places = texts.filter(which).head(SHOWN).str.extract(f"(?s)(.{{0,{AROUND}}}(?:{token}).{{0,{AROUND}}})")
    advice = f"Texts hold tokens of the model's own, which can end a turn: take them out ({listed(found, 5)})."
    told = _marked(rows, "special-tokens", which, advice, (0.0, NEVER))
    examples = tuple(zip(rows["row"].filter(which), places, strict=False))
    return replace(told, examples=examples)


def _boilerplate(rows: pl.DataFrame) -> Finding:
    """Answers that hold a sentence which recurs; an example is the sentence and the first row with it."""
    common = [item["text"] for item in audit.boilerplate(rows["answer"].to_list())]
    which = rows["answer"].str.contains_any(common) if common else rows["answer"].is_null()
    advice = (
        "The model learns these sentences best of all: add stock-closings to data.clean and those that end answers to "
        "data.closings."
    )
    told = _marked(rows, "boilerplate", which, advice, (0.05, 0.5))
    first = [
        rows["row"][int(rows["answer"].str.contains(text, literal=True).arg_max() or 0)] for text in common[:SHOWN]
    ]
    examples = tuple((row, _shown("", text)) for row, text in zip(first, common, strict=False))
    return Finding(told.kind, told.severity, told.count, told.share, examples, advice)


def _stock(rows: pl.DataFrame, side: Side, advice: str) -> Finding:
    """Answers that begin, or end, in phrases that recur; an example is the phrase and the first row with it."""
    phrases = _window(rows["answer"], side)
    size = STOCK_WORDS[side]
    ends = _words(phrases, side, size)
    least = max(audit.LEAST_ROWS, STOCK_EACH[side] * rows.height)
    common = ends.drop_nulls().value_counts(sort=True).filter(pl.col("count") >= least)[ends.name].to_list()
    told = _marked(rows, f"stock-{side}s", ends.is_in(common).fill_null(False), advice, (0.0, NEVER))
    if told.share < STOCK_SHARE[side]:
        return Finding(told.kind, "note", 0, 0.0, (), advice)
    places = [ends == phrase for phrase in common[:SHOWN]]
    examples = tuple((rows["row"][int(at.arg_max() or 0)], _grown(phrases.filter(at), side, size)) for at in places)
    return Finding(told.kind, told.severity, told.count, told.share, examples, advice)


def _window(answers: pl.Series, side: Side) -> pl.Series:
    """The words at an end of each answer, in lower case."""
    text = answers.str.strip_chars()
    text = text.str.head(STOCK_WINDOW) if side == "opening" else text.str.tail(STOCK_WINDOW)
    return text.str.to_lowercase().str.extract_all(r"\S+").alias("words")


def _words(phrases: pl.Series, side: Side, size: int) -> pl.Series:
    """The first or last words as one text; null where an answer has hardly more than that."""
    frame = pl.DataFrame({"words": phrases})
    words = pl.col("words").list.head(size) if side == "opening" else pl.col("words").list.tail(size)
    return frame.select(pl.when(pl.col("words").list.len() > size + 1).then(words.list.join(" "))).to_series()


def _grown(phrases: pl.Series, side: Side, size: int) -> str:
    """The longest phrase that four in five of these answers still share."""
    phrase = str(_words(phrases, side, size).drop_nulls()[0])
    for longer in range(size + 1, STOCK_LONGEST + 1):
        counts = _words(phrases, side, longer).drop_nulls().value_counts(sort=True)
        if counts.is_empty() or counts["count"][0] < 0.8 * len(phrases):
            break
        phrase = str(counts["words"][0])
    return phrase


def _near_duplicates(rows: pl.DataFrame, leak: int) -> Finding:
    """Records in a cluster with an earlier one; the turns of one conversation are one record."""
    first = rows.select(pl.col("row").first().over("cluster") != pl.col("row")).to_series()
    advice = f"Each is kept in one split with its like; a plain random split would have leaked {leak:,} into the test."
    return _marked(rows, "near-duplicates", first, advice, (0.05, NEVER))


def _one_question(rows: pl.DataFrame) -> Finding:
    """One question that half the rows ask: the model can't tell them apart."""
    asked = audit.asked(rows)
    counts = asked.filter(asked != "").value_counts(sort=True)
    question, count = counts.row(0) if counts.height else ("", 0)
    which = (asked == question) & (question != "") & (count > max(1, MOST * rows.height))
    return _marked(rows, "one-question", which, "Name the column that holds the question in data.question.", (0.0, 0.0))
