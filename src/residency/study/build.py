"""What stands before each question in each way, within the room that a prompt has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from residency.evaluate.compare import Question
from residency.prompts import Before
from residency.recipe import Recipe
from residency.study.ways import Way
from residency.workspace import Dialogue

NOTES = "Notes from earlier answers. Use what helps with the question, and leave out the rest."
SUBJECT_WORDS = 5
Piece = TypeVar("Piece")
Fits = Callable[[str, Before], bool]  # whether a question with this before it is a prompt that fits
COMMON = frozenset((
    "about", "after", "also", "been", "before", "being", "both", "could", "does", "from", "have", "having",
    "into", "just", "like", "more", "most", "much", "need", "only", "other", "over", "should", "some", "such",
    "than", "that", "their", "them", "then", "there", "these", "they", "this", "those", "under", "very", "want",
    "were", "what", "when", "where", "which", "while", "will", "with", "would", "your", "yours", "doctor",
    "please", "thank", "thanks", "hello",
))  # fmt: skip


@dataclass(frozen=True)
class Put:
    """A question with what stands before it, and how many of the pieces that were to stand there are in it."""

    question: Question
    proposed: int = 0
    taken: int = 0


def room(recipe: Recipe) -> int:
    """Tokens that a prompt may have: what `model.max_length` leaves beside the longest answer that may be given."""
    return recipe.model.max_length - recipe.evaluate.max_new_tokens


def put(way: Way, question: Question, found: Sequence[Dialogue], instruction: str, fits: Fits) -> Put:
    """The question as a way asks it. A piece with which the prompt would no longer fit is left out whole.

    `found` are the training dialogues nearest to it, nearest first. A system message of the data or the recipe stays.
    """
    own = question.before

    def told(texts: Sequence[str]) -> Before:
        return Before("\n\n".join(part for part in (own.system, *texts) if part), own.turns)

    def shown(dialogues: Sequence[Dialogue]) -> Before:
        # The nearest stands last, right before the question.
        turns = [(*each.history, (each.question, each.answer)) for each in reversed(dialogues)]
        return Before(own.system, (*(turn for each in turns for turn in each), *own.turns))

    if way.before == "instruction":
        return _fitting([instruction], told, question, fits)
    if way.before == "examples":
        return _fitting(found, shown, question, fits)
    if way.before == "notes":
        notes = [f"{each.question}\n{each.answer}" for each in found]
        return _fitting(notes, lambda texts: told([NOTES, *texts]), question, fits)
    return Put(question)


def _fitting(
    pieces: Sequence[Piece], before: Callable[[Sequence[Piece]], Before], question: Question, fits: Fits
) -> Put:
    taken: list[Piece] = []
    for piece in pieces:
        if fits(question.question, before([*taken, piece])):
            taken.append(piece)
    asked = replace(question, before=before(taken)) if taken else question
    return Put(asked, len(pieces), len(taken))


def instruction_of(recipe: Recipe, sources: Sequence[Dialogue]) -> str:
    """The recipe's `study.instruction`, or one made from the training data: its subject, and how long its answers are.

    The subject is told by the five words that stand in most of the questions, of four letters or more and none of the
    commonest English ones; the length is the median of the answers, to the next ten words.
    """
    if recipe.study.instruction:
        return recipe.study.instruction
    counts: Counter[str] = Counter()
    for dialogue in sources:
        counts.update(set(re.findall(r"[^\W\d_]{4,}", dialogue.question.lower())) - COMMON)
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SUBJECT_WORDS]]
    length = max(10, 10 * round(median(len(dialogue.answer.split()) for dialogue in sources) / 10))
    subject = f" The questions are about such things as {', '.join(words)}." if words else ""
    return f"Answer the question correctly and to the point, in about {length} words, and then stop.{subject}"
