"""For a notebook: progress as bars that need no widgets, curves that grow, and tables as data frames of pandas.

    from residency import Recipe, notebook, pipeline

    bars = notebook.Bars()
    pipeline.train(recipe, folder, bars, callbacks=[notebook.Curves()])
    notebook.answers(pipeline.evaluate(folder, bars))

Nothing here is needed anywhere else, and the stages know nothing of it.
"""

from residency.notebook.bars import Bars, Curves
from residency.notebook.frames import answers, asked, curves, faults, plan, rows, scores, split

__all__ = ["Bars", "Curves", "answers", "asked", "curves", "faults", "plan", "rows", "scores", "split"]
