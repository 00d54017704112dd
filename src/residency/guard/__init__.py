"""Notices beside an answer: emergencies, what the program is, its role. None of them changes the answer.

    guard = Guard.of(recipe)                       # None where the recipe turns nothing on
    for notice in guard.look(question, answer, first=True):
        print(notice.rule, notice.notice)

Patterns and words over plain data (assets/guard.yaml), without a model and without torch.
"""

from residency.guard.look import Guard, Notice

__all__ = ["Guard", "Notice"]
