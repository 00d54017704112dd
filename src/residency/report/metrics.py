"""How each score is called, written and read, and what is left of a difference where many are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROUPS = {"main": "", "quality": "More on quality", "form": "More on form", "copying": "More on copying"}


@dataclass(frozen=True)
class Metric:
    """How a score is called, written and read."""

    key: str
    label: str
    meaning: str
    better: str  # "lower", "higher" or "" where neither is better
    form: str  # number, share, nats or ratio
    group: str = "main"  # the table that it stands in; the others unfold

    def write(self, value: float, signed: bool = False) -> str:
        """The value with its unit."""
        sign = "+" if signed else ""
        if self.form == "share":
            text, unit = f"{100 * value:{sign}.0f}", " pp" if signed else "%"
        else:
            text, unit = f"{value:{sign}.{DIGITS[self.form]}f}", ""
        return (text if float(text) else text.lstrip("+-")) + unit  # no difference has no sign

    def verdict(self, difference: dict[str, float]) -> str:
        """better or worse; empty where the interval holds zero, or where neither is better."""
        if not self.better or not shown(difference):
            return ""
        return "better" if (difference["low"] > 0) == (self.better == "higher") else "worse"


DIGITS = {"number": 1, "nats": 3, "ratio": 2}

METRICS = (
    Metric(
        "answer_nll", "Answer NLL", "nats a token of the reference answer, as the model foresees it", "lower", "nats"
    ),
    Metric("rouge_l", "ROUGE-L", "longest common subsequence with the reference, F1, 0 to 100", "higher", "number"),
    Metric("chrf", "chrF", "character n-grams shared with the reference, 0 to 100", "higher", "number"),
    Metric("similarity", "Similarity", "cosine of the sentence embeddings of answer and reference", "higher", "ratio"),
    Metric("stopped", "Stops by itself", "share of answers that end before the limit", "higher", "share"),
    Metric("repetition", "Caught in a loop", "share that repeats a phrase three times running", "lower", "share"),
    Metric("copied", "Copied", "longest run of words out of a training answer, of the answer's", "", "share"),
    Metric(
        "off_topic_kept", "Keeps its role", "share of off-topic questions steered back to health", "higher", "share"
    ),
    Metric("length", "Length", "tokens of an answer", "", "number"),
    Metric("perplexity", "Perplexity", "a token: the NLL's exponential", "lower", "ratio", "quality"),
    Metric("answer_nll_byte", "NLL a byte", "nats; compares different tokenizers", "lower", "nats", "quality"),
    Metric("perplexity_byte", "Perplexity a byte", "the NLL's exponential", "lower", "nats", "quality"),
    Metric("rouge_1", "ROUGE-1", "words shared with the reference, F1, 0 to 100", "higher", "number", "quality"),
    Metric("rouge_2", "ROUGE-2", "pairs of words shared, F1, 0 to 100", "higher", "number", "quality"),
    Metric("bleu", "BLEU", "n-grams shared, 0 to 100, mean over answers", "higher", "number", "quality"),
    Metric("corpus_bleu", "Corpus BLEU", "the same over all answers at once", "higher", "number", "quality"),
    Metric("corpus_chrf", "Corpus chrF", "chrF over all answers at once", "higher", "number", "quality"),
    Metric("token_f1", "Token F1", "words shared, SQuAD's normalisation", "higher", "share", "quality"),
    Metric("exact_match", "Exact match", "share that are the reference, normalised", "higher", "share", "quality"),
    Metric("repeated", "Repeats itself", "share of four-word runs that stood in it before", "lower", "share", "form"),
    Metric("empty", "Empty", "share of empty answers", "lower", "share", "form"),
    Metric("length_ratio", "Length ratio", "words of the answers over words of the references", "", "ratio", "form"),
    Metric("distinct_1", "Distinct-1", "different words over all words of all answers", "", "share", "form"),
    Metric("distinct_2", "Distinct-2", "different pairs of words over all pairs", "", "share", "form"),
    Metric("reading_ease", "Reading ease", "Flesch: 60 to 70 is plain English, under 30 is hard", "", "number", "form"),
    Metric("boilerplate", "Boilerplate", "share with a stock sentence of the training", "lower", "share", "copying"),
    Metric("copied_words", "Copied words", "words of that longest run", "", "number", "copying"),
)


def shown(difference: dict[str, float]) -> bool:
    """Whether the interval of a difference, from `low` to `high`, leaves out zero."""
    return not difference["low"] <= 0 <= difference["high"]


def standing(evaluation: dict[str, Any], key: str) -> str:
    """What Holm's correction says of a difference whose interval leaves out zero; empty where it has nothing to say."""
    found, difference = evaluation.get("significance", {}).get(key), evaluation["differences"][key]
    if found is None or not shown(difference):
        return ""
    return "stands among all" if found["stands"] else "may be chance among so many"
