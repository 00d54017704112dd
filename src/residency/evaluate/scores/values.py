"""Every score of a system's answers: a value an answer, and numbers over all of them. docs/metrics.md defines each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from residency import embeddings
from residency.evaluate.scores import copying, corpus, reading, score, wording
from residency.evaluate.scores.measure import Measure, mean, ratio
from residency.languages import language_of
from residency.prompts import Example, Prompt
from residency.workspace import Run

REFERENCES = 50  # that tell the language
BOILERPLATE_SHARE = 0.02  # sentences in fewer training answers than this are not called boilerplate


class Asked(Protocol):
    """A question that was asked, as far as scores go."""

    @property
    def reference(self) -> str:
        """What a person answered."""


class Said(Protocol):
    """What a system answered, as far as scores go."""

    @property
    def text(self) -> str:
        """The answer."""

    @property
    def tokens(self) -> int:
        """How many tokens it took."""

    @property
    def stopped(self) -> bool:
        """Whether it ended by itself."""


@dataclass(frozen=True)
class Facts:
    """What answers are held against besides their references: stock sentences and answers of the training data."""

    boilerplate: Sequence[str] = ()
    training: Callable[[], Iterable[str]] = tuple
    similarity: bool = False
    english: bool = True

    @classmethod
    def of(cls, run: Run, tests: Sequence[Asked]) -> Facts:
        """Those of a run. Similarity is measured where the extra `embeddings` is installed.

        Raises:
            UserError: the run was not prepared.
        """
        return cls(
            boilerplate=stock_sentences(run),
            training=lambda: (dialogue.answer for dialogue in run.dialogues("train")),
            similarity=embeddings.available(),
            english=language_of([test.reference for test in tests[:REFERENCES]]) == "en",
        )


def stock_sentences(run: Run) -> list[str]:
    """The sentences that 2% or more of a run's training answers have.

    Raises:
        UserError: the run was not prepared.
    """
    data = run.read_json("data/report.json", "prepare")
    return [item["text"] for item in data["boilerplate"] if item["share"] >= BOILERPLATE_SHARE]


def values(answers: Sequence[Said], tests: Sequence[Asked], facts: Facts) -> dict[str, list[float]]:
    """Each metric's value for each answer, in the order of the answers."""
    texts, references = [given.text for given in answers], [test.reference for test in tests]
    found: dict[str, list[float]] = {}
    for given, reference in zip(answers, references, strict=True):
        one = score.overlap(given.text, reference) | {
            "exact_match": wording.exact_match(given.text, reference),
            "token_f1": wording.token_f1(given.text, reference),
            "stopped": float(given.stopped),
            "repetition": float(score.loops(given.text)),
            "repeated": score.repeated(given.text),
            "boilerplate": float(any(sentence in given.text for sentence in facts.boilerplate)),
            "empty": float(not given.text),
            "length": float(given.tokens),
        }
        for metric, value in one.items():
            found.setdefault(metric, []).append(value)
    if facts.similarity:
        found["similarity"] = similarity(texts, references)
    runs = copying.longest_runs(texts, facts.training())
    found["copied"] = [run / max(len(text.split()), 1) for run, text in zip(runs, texts, strict=True)]
    found["copied_words"] = [float(run) for run in runs]
    return found


def measures(
    own: Mapping[str, Sequence[float]], answers: Sequence[Said], tests: Sequence[Asked], facts: Facts
) -> dict[str, Measure]:
    """The means of each answer's `values`, and the numbers that no mean gives: corpus scores, variety, reading ease."""
    texts, references = [given.text for given in answers], [test.reference for test in tests]
    words = [float(len(reference.split())) for reference in references]
    found = {metric: mean(value) for metric, value in own.items()}
    found |= corpus.corpus(texts, references)
    found |= {f"distinct_{size}": mean(wording.distinct(texts, size)) for size in (1, 2)}
    lengths = np.array([[len(text.split()), word] for text, word in zip(texts, words, strict=True)], dtype=float)
    found["length_ratio"] = Measure(lengths, ratio)
    if facts.english:
        counts = np.array([reading.reading_counts(text) for text in texts], dtype=float)
        found["reading_ease"] = Measure(counts, reading.reading_ease)
    return found


def likelihood_measures(likelihoods: Sequence[tuple[float, int]], sizes: Sequence[int]) -> dict[str, Measure]:
    """NLL and perplexity of the reference answers, a token and a byte.

    `likelihoods` are each answer's summed NLL (nats) and its tokens, the end token included; `sizes` its bytes. What a
    token is differs between tokenizers; a byte is a byte.
    """
    tokens = np.array(likelihoods, dtype=float).reshape(-1, 2)
    sized = np.stack([tokens[:, 0], np.array(sizes, dtype=float)], axis=1)
    return {
        "answer_nll": Measure(tokens, ratio),
        "perplexity": Measure(tokens, _exponential),
        "answer_nll_byte": Measure(sized, ratio),
        "perplexity_byte": Measure(sized, _exponential),
    }


def learnt_bytes(prompt: Prompt, example: Example, reference: str) -> int:
    """UTF-8 bytes of the answer in an example: of the whole reference, or of what was left of it at the limit."""
    ids = list(example.input_ids[example.learn_from :])
    end = list(prompt.end_ids)
    whole = bool(end) and ids[-len(end) :] == end
    return len((reference if whole else prompt.decode(ids)).encode())


def similarity(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """The cosine between each text's sentence embedding and its reference's, from -1 to 1; 0 for an empty text.

    Raises:
        UserError: the extra `embeddings` is not installed.
    """
    ours, theirs = embeddings.embed(texts), _embedded(tuple(references))
    cosines = (ours * theirs).sum(axis=1)
    return [float(cosine) if text.strip() else 0.0 for cosine, text in zip(cosines, texts, strict=True)]


def signatures(similar: bool) -> dict[str, str]:
    """How each library's scores were computed: what must be told with a number, so that it can be compared."""
    found = corpus.signatures()
    return found | {"similarity": embeddings.signature()} if similar else found


@lru_cache(maxsize=1)
def _embedded(texts: tuple[str, ...]) -> Any:
    """The references of an evaluation are the same for every system."""
    return embeddings.embed(texts)


def _exponential(sums: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        found: np.ndarray = np.exp(ratio(sums))
    return found
