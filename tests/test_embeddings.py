from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from residency import embeddings
from residency.errors import UserError

installed = pytest.mark.skipif(not embeddings.available(), reason="the extra residency[embeddings] is not installed")

TEXTS = ["A child with a fever.", "", "The stock market fell.", "A feverish infant, hot to the touch."]


@installed
def test_vectors_have_unit_length_and_texts_that_mean_alike_lie_near() -> None:
    found = embeddings.embed(TEXTS)
    assert found.shape == (4, 384)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    alike = found @ found.T
    assert alike[0, 3] > 0.5 > 0.2 > alike[0, 2]


@installed
def test_vectors_are_those_that_sentence_transformers_documents() -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    found = embeddings.embed(texts)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]  # of this model, in its quick start
    assert found @ found.T == pytest.approx(np.array(expected), abs=1e-4)


@installed
def test_a_vector_does_not_hang_on_the_texts_beside_it() -> None:
    together = embeddings.embed([*TEXTS, "word " * 200])
    assert np.concatenate([embeddings.embed([text]) for text in TEXTS]) == pytest.approx(together[:4], abs=1e-5)
    assert embeddings.embed([]).shape == (0, 384)


@installed
def test_a_long_text_is_read_to_its_end() -> None:
    long = "The patient has a fever. " * 100
    other = long + "The stock market fell, and shares of banks lost most. " * 100
    one, two = embeddings.embed([long, other])
    assert one @ two < 0.9


def test_where_the_model_is_missing_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "WHEEL", "no-such-wheel")
    embeddings._load.cache_clear()
    assert not embeddings.available()
    with pytest.raises(UserError, match=r"residency\[embeddings\]"):
        embeddings.embed(["a"])
    with pytest.raises(metadata.PackageNotFoundError):
        embeddings.signature()
