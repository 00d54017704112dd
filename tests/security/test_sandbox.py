"""Chat templates stay in Jinja's sandbox, and a file of the user's is no template of Jinja's at all."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from residency.errors import UserError
from residency.models import load_tokenizer
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection

FOLLOWS = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
REACHING = (
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages|map(attribute='x')|list }}{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% set x = lipsum.__globals__ %}",
    "{{ self.__init__ }}",
)


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Any:
    return load_tokenizer(ModelSection(base=str(llama_folder)))


def built(tokenizer: Any, template: str | dict[str, str]) -> Prompt:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return Prompt.build(PromptSection(), own)


@pytest.mark.parametrize("template", REACHING)
def test_a_template_that_reaches_for_class_is_refused_in_a_line(tokenizer: Any, template: str) -> None:
    for whole in (template + FOLLOWS, {"default": FOLLOWS, "tool_use": template}):
        with pytest.raises(UserError, match=r"chat template reaches for __\w+__") as told:
            built(tokenizer, whole)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% set k = '__cla' ~ 'ss__' %}{{ ''[k][k] }}",  # a name that is put together on the way
        "{{ messages.append(1) }}",
        "{% for i in range(10000000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['content'] + 1 }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{% for %}",
    ],
)
def test_what_the_sandbox_stops_is_a_users_error(tokenizer: Any, template: str) -> None:
    with pytest.raises(UserError, match=r"chat template refuses a dialogue \(") as told:
        built(tokenizer, template + FOLLOWS)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["'_' ~ '_class__'", "'_' ~ '_init__'", "['_', '_class__']|join"])
def test_a_name_that_is_put_together_reaches_nothing(tokenizer: Any, name: str) -> None:
    for template in (f"{{{{ ''|attr({name})|attr('_' ~ '_mro__') }}}}", f"{{{{ ''[{name}] }}}}"):
        assert built(tokenizer, template + FOLLOWS).text("q") == "<|im_start|>q<|im_end|>"


def test_an_honest_template_is_none_of_these(tokenizer: Any) -> None:
    assert built(tokenizer, FOLLOWS + "{# __class__ #}'__init__'").text("q").endswith("'__init__'")


def test_a_file_of_the_user_is_text_with_two_places_and_nothing_of_it_runs(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("{{ ''.__class__ }} {question.__class__} %s {0} {question}\n{% raw %}{answer}")
    prompt = Prompt.build(PromptSection(template=str(file)), tokenizer)
    asked = "{{ 7 * 7 }} {answer}"
    assert prompt.text(asked) == f"{{{{ ''.__class__ }}}} {{question.__class__}} %s {{0}} {asked}\n{{% raw %}}"


def test_what_a_row_says_is_no_template(tokenizer: Any) -> None:
    said = "{{ 7 * 7 }}{% for %} {{ ''.__class__ }}"
    assert said in Prompt.build(PromptSection(), tokenizer).text(said)
