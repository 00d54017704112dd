from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from residency.errors import UserError
from residency.recipe import Recipe


def raw(**sections: Any) -> dict[str, Any]:
    return {"name": "x", "data": {"source": "clinic"}, **sections}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {}}, 'unknown key "trian"; expected one of .*did you mean "train"'),
        ({"train": {"epoch": 1}}, 'unknown key "train.epoch".*did you mean "epochs"'),
        (
            {"train": {"lora": {"rnk": 1}}},
            'unknown key "train.lora.rnk"; expected one of rank, alpha.*did you mean "rank"',
        ),
        ({"data": {"suorce": "s"}}, 'unknown key "data.suorce".*did you mean "source"'),
        (
            {"data": {"source": "s", "synthesise": {"pars": 1}}},
            'unknown key "data.synthesise.pars".*did you mean "pairs"',
        ),
        ({"train": {"epochs": 0}}, "train.epochs is 0; expected greater than 0"),
        ({"train": {"epochs": "many"}}, "train.epochs is 'many'; expected a valid number"),
        ({"train": {"method": "lara"}}, "train.method is 'lara'; expected 'lora' or 'full'"),
        ({"train": {"lora": {"rank": 2000}}}, "train.lora.rank is 2000; expected less than or equal to 1024"),
        ({"train": {"lora": {"targets": [1]}}}, r"train\.lora\.targets\.0 is 1; expected a valid string"),
        ({"train": {"lora": {"targets": []}}}, r"train\.lora\.targets is \[\]; expected .*at least 1 item"),
        ({"train": {"epochs": float("inf")}}, "train.epochs is inf; expected a finite number"),
        (
            {"train": {"tokens_per_batch": "many"}},
            "train.tokens_per_batch is 'many'; expected a valid integer or 'auto'",
        ),
        ({"train": {"tokens_per_batch": 0}}, "train.tokens_per_batch is 0; expected greater than or equal to 1"),
        ({"train": None}, "train is None; expected a section of key: value lines"),
        ({"data": {}}, 'key "data.source" is missing'),
        ({"data": {"source": "s", "test": 0.6, "validation": 0.5}}, "leave nothing to train on"),
        ({"data": {"source": "s", "text": "t", "answer": "a"}}, "text stands alone"),
        ({"data": {"source": "s", "redact": False, "names": True}}, "names are replaced where redact is true"),
        ({"data": {"source": "s", "names": 3}}, "data.names is 3"),
        (
            {"data": {"source": "s", "synthesise": {}, "question": "q", "answer": "a"}},
            "texts: leave out question, answer",
        ),
        ({"data": {"source": "s", "synthesise": {}, "messages": "m"}}, "texts: leave out messages"),
        ({"model": {"trust_remote_code": True}}, "trust_remote_code needs a revision"),
        ({"name": "../up"}, "name is '../up'"),
    ],
)
def test_a_fault_in_a_recipe_names_key_value_and_what_is_expected(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.parse(raw(**sections))


def test_overrides_reach_any_depth_and_are_read_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\ndata: {source: clinic}\n")
    recipe = Recipe.load(tmp_path / "r.yaml", ["train.lora.rank=4", "data.redact=false", "train.lora.targets=[q, v]"])
    assert (recipe.train.lora.rank, recipe.data.redact, recipe.train.lora.targets) == (4, False, ("q", "v"))


def test_an_override_fills_a_section_that_the_file_leaves_empty(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\ndata: {source: clinic, synthesise: null}\ntrain:\n")
    recipe = Recipe.load(tmp_path / "r.yaml", ["train.epochs=2", "data.synthesise.pairs=5"])
    assert recipe.train.epochs == 2
    assert recipe.data.synthesise is not None
    assert recipe.data.synthesise.pairs == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "no key=value"),
        ("=3", "no key=value"),
        ("name.first=1", "name is a value, not a section"),
        ("train.epoch=3", 'unknown key "train.epoch".*did you mean "epochs"'),
        ("train.epochs=many", "train.epochs is 'many'"),
        ("train.lora={rank: 1, rank: 2}", 'key "rank" stands there a second time'),
    ],
)
def test_a_faulty_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.load(None, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "line 1: not valid YAML"), ("- 1", "holds list"), ("", "holds NoneType"), ("\xff", "a UTF-8 text file")],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        Recipe.load(tmp_path / "r.yaml")


def test_a_recipe_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*`residency init NAME --data PATH` writes one"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        Recipe.load(tmp_path)


def test_what_is_dumped_loads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load(None, ["train.epochs=0.5", "prompt.system='Be kind: always.'"])
    (tmp_path / "r.yaml").write_text(recipe.dump())
    assert Recipe.load(tmp_path / "r.yaml") == recipe


@settings(deadline=None, max_examples=40)
@example(system="\x85", rate=1.0, shares=(0.0, 0.0), closings=["a\u2028b", "\ufeff", "\r"])
@given(
    system=st.none() | st.text(max_size=30),
    rate=st.floats(0, 1, exclude_min=True),
    shares=st.tuples(st.floats(0, 0.49), st.floats(0, 0.49)),
    closings=st.lists(st.text(max_size=20), max_size=3),
)
def test_whatever_a_recipe_holds_it_is_the_same_after_a_dump(
    system: str | None,
    rate: float,
    shares: tuple[float, float],
    closings: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = {"source": "s", "test": shares[0], "validation": shares[1], "closings": closings}
    recipe = Recipe.parse(raw(data=data, prompt={"system": system}, train={"learning_rate": rate}))
    file = tmp_path_factory.mktemp("recipe") / "r.yaml"
    file.write_bytes(recipe.dump().encode())
    assert Recipe.load(file) == recipe


def test_the_built_in_recipe_needs_no_file() -> None:
    assert Recipe.load().data.source == "clinic"
    assert Recipe.load("doctor") == Recipe.load()


def test_every_field_is_described() -> None:
    def undescribed(model: Any, path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                found += undescribed(field.annotation, f"{path}{name}.")
            elif not field.description:
                found.append(path + name)
        return found

    assert undescribed(Recipe, "") == []


def test_a_loaded_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.load().train.epochs = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndata: {source: x}\n\nname: b\n", 'line 4: key "name" stands there a second time; .* line 1'),
        ("name: a\ndata:\n  source: x\n  rows: 1\n  source: y\n", 'line 5: key "source" .* line 3'),
        ("name: a\ndata: {source: x, source: y}\n", 'line 2: key "source" .* line 2'),
        ("name: a\ndata: {source: x}\ndata: {source: y}\n", 'line 3: key "data"'),
    ],
)
def test_a_key_that_stands_there_twice_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match=message) as raised:
        Recipe.load(file)
    assert "\n" not in str(raised.value)


def test_the_same_key_in_two_sections_and_a_merged_one_are_no_repeats(tmp_path: Path) -> None:
    file = tmp_path / "merged.yaml"
    file.write_text("name: a\ndata: &d {source: x, seed: 1}\ntrain: {seed: 2}\n", "utf-8")
    assert (Recipe.load(file).data.seed, Recipe.load(file).train.seed) == (1, 2)
    file.write_text("name: a\nmodel: &m {base: b}\ndata: {<<: {source: x, seed: 1}, seed: 5}\n", "utf-8")
    assert (Recipe.load(file).data.source, Recipe.load(file).data.seed) == ("x", 5)


@pytest.mark.parametrize("name", ["my run", "-x", "a/b", "", "été", "../x"])
def test_a_name_that_can_be_no_folder_is_refused_in_words(name: str) -> None:
    with pytest.raises(UserError, match="expected a letter from A to Z or a digit, then letters") as raised:
        Recipe.parse({"name": name, "data": {"source": "clinic"}})
    assert repr(name) in str(raised.value)
    assert "pattern" not in str(raised.value)


def test_texts_may_name_their_column_for_synthesise() -> None:
    data = {"source": "s", "text": "body", "synthesise": {"by": ["rules"]}}
    assert Recipe.parse({"name": "a", "data": data}).data.synthesise is not None
