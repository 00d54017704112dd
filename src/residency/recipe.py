"""What a run is: one YAML file, typed, validated, loaded and overridden.

Every field has a description, a default and a range; a misspelt key is an error that names the nearest right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, StrictBool, ValidationError, model_validator
from pydantic_core import ErrorDetails

from residency.errors import UserError, listed, nearest
from residency.sections import (
    DistributedSection,
    DpoSection,
    EvaluateSection,
    FreezeSection,
    GuardSection,
    Ia3Section,
    LoraSection,
    PromptTuningSection,
    ScheduleSection,
    Section,
    Share,
    StudySection,
    SynthesiseSection,
    against_dpo,
    against_trust,
)

BUILT_IN_RECIPES = ("doctor", "support", "legal", "code")  # the first is taken where none is named

CleaningStep = Literal[
    "unicode", "control-characters", "html", "links", "white-space", "question-prefix", "stock-closings"
]
Dropping = Literal["contradicting-answers", "truncated-answers", "copied-questions", "short-answers", "other-languages"]
CLOSINGS = (
    r"for (?:further|more) (?:information|doubts|queries|details)[^.!?]*? consult [^.!?]*?online\s*-*>*\.?",
    r"(?:i )?hope (?:this|that|i|my)[^.!?]*?(?:help|answer|useful|query|question)[^.!?]*[.!?]?",
    r"(?:please )?(?:feel free to|do not hesitate to|don't hesitate to|you can)[^.!?]*?"
    r"(?:ask|contact|revert|write)[^.!?]*[.!?]?",
    r"thank(?:s| you)[^.!?]*[.!?]?",
    r"wish(?:ing)? you[^.!?]*[.!?]?",
    r"take care[.!?]?",
    r"(?:with )?(?:best |kind |warm )?regards[,.!]?",
)


class DataSection(Section):
    """Which dialogues, which of their columns, and how they are cleaned and split."""

    source: str = Field(description="hub data set id, local file, folder or glob, or the built-in `clinic`")
    encoding: str | None = Field(None, description="character encoding of text files; found when left out")
    delimiter: str | None = Field(None, min_length=1, max_length=3, description="of a CSV file; found when left out")
    streaming: bool = Field(False, description="read a hub data set row by row and stop after `rows`")
    config: str | None = Field(None, description="configuration of a hub data set")
    hub_split: str = Field("train", description="split of a hub data set that is read")
    revision: str | None = Field(None, description="branch, tag or commit of a hub data set")
    question: str | None = Field(None, description="column with the question; recognised when left out")
    answer: str | None = Field(None, description="column with the answer; recognised when left out")
    context: str | None = Field(None, description="column put under the question (Alpaca's `input`)")
    text: str | None = Field(None, description="column with whole texts, instead of question and answer")
    messages: str | None = Field(None, description="column with lists of messages; each assistant turn is an answer")
    rejected: str | None = Field(
        None, description="column with the worse answer of a pair, beside `answer`, the better"
    )
    rows: int | None = Field(None, ge=1, description="how many rows to take; all when left out")
    take: Literal["random", "first"] = Field("random", description="which rows, when `rows` is fewer than there are")
    test: Share = Field(0.1, description="share of the kept rows held out for evaluation")
    validation: Share = Field(0.05, description="share of the kept rows that chooses checkpoint and decoding")
    seed: int = Field(123, ge=0, description="seed of the row choice and the split")
    clean: tuple[CleaningStep, ...] = Field(
        ("unicode", "control-characters", "white-space", "question-prefix"), description="cleaning steps, in order"
    )
    closings: tuple[str, ...] = Field(CLOSINGS, description="regular expressions of the step stock-closings")
    drop: tuple[Dropping, ...] = Field((), description="rows to leave out, by the finding that names them")
    redact: bool = Field(True, description="replace personal data, such as addresses and numbers, by placeholders")
    names: bool | str = Field(
        False, description="also replace people's names; needs residency[names]; a spaCy model's name may be given"
    )
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two rows are one case")
    overlong: Literal["drop", "truncate"] = Field("drop", description="what to do with rows over model.max_length")
    on_error: Literal["stop", "skip"] = Field("stop", description="what to do with a row that can't be read")
    redirects: StrictBool | Share = Field(
        False,
        description="mix in built-in examples that keep a clinic's role: true, or their share of the training rows",
    )
    synthesise: SynthesiseSection | None = Field(
        None, description="make question-answer pairs from documents, under these settings; off when left out"
    )

    @model_validator(mode="after")
    def _columns_agree(self) -> DataSection:
        for whole in ("text", "messages"):
            columns = ("question", "answer", "rejected", "context", "text", "messages")
            others = [name for name in columns if name != whole]
            if getattr(self, whole) and any(getattr(self, name) for name in others):
                raise ValueError(f"{whole} stands alone: leave out {', '.join(others)}, or leave out {whole}")
        if self.names and not self.redact:
            raise ValueError("names are replaced where redact is true: set it, or leave out names")
        named = [name for name in ("question", "answer", "rejected", "context", "messages") if getattr(self, name)]
        if self.synthesise is not None and named:
            raise ValueError(
                f"synthesise makes the pairs from texts: leave out {', '.join(named)}, or leave out synthesise"
            )
        if self.test + self.validation >= 1:
            raise ValueError(f"test {self.test:g} and validation {self.validation:g} leave nothing to train on")
        return self


class ModelSection(Section):
    """Which base model."""

    base: str = Field("smollm2-135m-instruct", description="hub id, local folder, GGUF file or built-in name")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    max_length: int = Field(2048, ge=16, description="longest example in tokens, prompt and answer together")
    attention: Literal["auto", "eager", "sdpa"] = Field("auto", description="attention kernel; auto chooses by length")
    trust_remote_code: bool = Field(False, description="run Python code that a hub model brings; needs its commit")

    @model_validator(mode="after")
    def _trust_is_pinned(self) -> ModelSection:
        if self.trust_remote_code and (reason := against_trust(self.base, self.revision)):
            raise ValueError(reason)
        return self


class PromptSection(Section):
    """How a dialogue becomes tokens."""

    template: str = Field(
        "auto", description="auto (the tokenizer's chat template where it has one), chat, question-answer, or a file"
    )
    system: str | None = Field(None, description="system message of the chat template; also for the base model")
    end_token: bool = Field(True, description="teach the end-of-sequence token; without it answers never stop")
    learn: Literal["answer", "everything"] = Field("answer", description="which tokens the loss is taken over")


Method = Literal["lora", "full", "qlora", "freeze", "ia3", "prompt-tuning"]
Schedule = Literal[
    "constant",
    "linear",
    "cosine",
    "step",
    "exponential",
    "polynomial",
    "inverse-square-root",
    "warmup-stable-decay",
    "cosine-restarts",
]


class TrainSection(Section):
    """How the model is fine-tuned."""

    objective: Literal["sft", "dpo"] = Field(
        "sft", description="learn the answers (sft), or to prefer chosen to rejected ones (dpo; residency[preference])"
    )
    dpo: DpoSection = Field(default_factory=DpoSection, description="settings of the objective dpo")
    method: Method = Field("lora", description="low-rank adapters, every weight, or another of the methods")
    lora: LoraSection = Field(default_factory=LoraSection, description="settings of the methods lora and qlora")
    freeze: FreezeSection = Field(default_factory=FreezeSection, description="settings of the method freeze")
    ia3: Ia3Section = Field(default_factory=Ia3Section, description="settings of the method ia3")
    prompt_tuning: PromptTuningSection = Field(
        default_factory=PromptTuningSection, description="settings of the method prompt-tuning"
    )
    epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    examples_per_step: int = Field(16, ge=1, description="dialogues or pairs in one optimizer step, on any machine")
    tokens_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="padded tokens that go through at once"
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="peak learning rate; ia3 and prompt-tuning need 10 to 100 times more, dpo less",
    )
    schedule: Schedule = Field("cosine", description="course after the warm-up")
    schedule_options: ScheduleSection = Field(
        default_factory=ScheduleSection, description="what some of the schedules need"
    )
    warmup: float = Field(0.05, ge=0, description="warm-up: a share of all steps below 1, a number of steps from 1 on")
    optimizer: Literal["adamw", "adafactor", "adamw-8bit", "muon"] = Field(
        "adamw", description="AdamW, Adafactor (less memory), AdamW in 8 bits, or Muon for the hidden matrices"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay; norms and biases have none")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns clipping off")
    neftune: float = Field(0.0, ge=0, le=100, description="noise on the embeddings while training; 5 is usual, 0: none")
    label_smoothing: Share = Field(0.0, description="share of each target spread over the whole vocabulary")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="bf16 where the processor has it")
    dither: bool = Field(True, description="draw the bits below bf16's, so that small steps outlive its rounding")
    compile: Literal["auto"] | bool = Field("auto", description="torch.compile the layers; auto: in long runs on a CPU")
    int8: Literal["auto"] | bool = Field("auto", description="backward pass in 8-bit integers; auto: compiled, on VNNI")
    evaluate_every: int = Field(0, ge=0, description="steps between validations and checkpoints; 0: two an epoch")
    patience: int = Field(0, ge=0, description="stop after this many validations without a better one; 0: never")
    best_by: Literal["loss", "rouge-l", "chrf", "stops"] = Field(
        "loss", description="what the validation set chooses the best checkpoint by; all but loss need answers"
    )
    best_questions: int = Field(16, ge=1, description="validation questions answered for best_by, unless it is loss")
    average_last: int | None = Field(
        None, ge=2, le=100, description="end with the mean of this many last checkpoints instead of the best one"
    )
    continue_from: str | None = Field(
        None, description="run folder, adapter, model or checkpoint of an earlier training to go on from"
    )
    seed: int = Field(42, ge=0, description="seed of the example order and the adapters")
    trackers: tuple[str, ...] = Field((), description="some of tensorboard, mlflow, wandb, trackio; in the run folder")
    distributed: DistributedSection = Field(default_factory=DistributedSection, description="training by torchrun")

    @model_validator(mode="after")
    def _packed_weights_stay(self) -> TrainSection:
        if self.method == "qlora" and self.lora.variant in ("pissa", "olora"):
            raise ValueError(f"the variant {self.lora.variant} changes weights that qlora packs; use another, or lora")
        return self


class Recipe(Section):
    """One run: what is learnt, from what, how, and how it is judged."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="name of the run and its folder")
    data: DataSection
    model: ModelSection = Field(default_factory=ModelSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    study: StudySection = Field(default_factory=StudySection)
    guard: GuardSection = Field(default_factory=GuardSection)

    @model_validator(mode="after")
    def _dpo_holds(self) -> Recipe:
        reason = against_dpo(self.train, self.prompt.learn) if self.train.objective == "dpo" else ""
        if self.train.objective == "dpo" and self.data.redirects:
            reason = "data.redirects are answers and no pairs; leave it out"
        if reason:
            raise ValueError(f"train.objective is dpo, but {reason}")
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe in a YAML file, or a built-in one by its name, with `key.key=value` overrides applied.

        Raises:
            UserError: the file is missing or no YAML, a key is unknown, a value is of the wrong kind or out of range.
        """
        where, text = _read(path)
        try:
            raw = _yaml(text, where)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" line {mark.line + 1}" if mark else ""
            raise UserError(f"{where}{line}: not valid YAML", "key: value lines", "check quotes and indents") from None
        if not isinstance(raw, dict):
            raise UserError(f"{where}: holds {type(raw).__name__}", "a recipe of key: value lines")
        for override in overrides:
            _override(raw, override)
        return cls.parse(raw, where)

    @classmethod
    def parse(cls, raw: dict[str, Any], where: str = "recipe") -> Recipe:
        """The recipe in a mapping; `where` names its origin in error messages."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise UserError(*_explain(error, where)) from None

    def dump(self) -> str:
        """The whole recipe, defaults included, as YAML."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key that is there twice: PyYAML takes the last one and says nothing."""

    where = ""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:  # before merges (<<) add theirs, which a key of one's own may replace
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise UserError(
                    f'{self.where} line {line}: key "{key.value}" stands there a second time',
                    "each key once",
                    f"remove this one or that of line {lines[key.value]}",
                )
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def _yaml(text: str, where: str) -> Any:
    loader = _Loader(text)
    loader.where = where
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Dumper(yaml.SafeDumper):
    """YAML that reads as it was written: other scripts' line breaks, left bare, would be read as plain ones."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        broken = any(sign in data for sign in "\r\x85\u2028\u2029\ufeff")
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if broken else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _read(path: str | Path | None) -> tuple[str, str]:
    name = BUILT_IN_RECIPES[0] if path is None else str(path)
    if name in BUILT_IN_RECIPES:
        built_in = resources.files("residency") / "assets" / "recipes" / f"{name}.yaml"
        return f"built-in recipe {name}", built_in.read_text("utf-8")
    file = Path(name)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "no such file"
        raise UserError(
            f"recipe {file}: {kind}",
            f"a YAML file, or one of {listed(BUILT_IN_RECIPES)}",
            "`residency init NAME --data PATH` writes one",
        )
    try:
        return str(file), file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {file}: can't be read ({error})", "a UTF-8 text file") from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: no key=value", "for example --set train.epochs=3")
    *parents, last = key.strip().split(".")
    node: Any = raw
    for parent in parents:
        if node.get(parent) is None:  # an empty section, or one that is off by default
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise UserError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = _yaml(value, f"--set {override}:")
    except yaml.YAMLError:
        node[last] = value


def _explain(error: ValidationError, where: str) -> tuple[str, str, str]:
    """The first fault of a validation as found, expected, what to do."""
    faults = error.errors()
    # A needed key that is misspelt is missing as well, and the misspelling says more.
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    path = _path(first)
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_section(path[:-1]).model_fields)
        return f'{where}: unknown key "{key}"', f"one of {listed(known)}", nearest(path[-1], known)
    if first["type"] == "missing":
        return f'{where}: key "{key}" is missing', "", "add it"
    if first["type"] == "value_error":
        return f"{where}: {key or 'recipe'}: {first['msg'].removeprefix('Value error, ')}", "", ""
    expected = " or ".join(_expected(fault) for fault in faults if _path(fault) == path)
    return f"{where}: {key} is {first['input']!r}", expected, ""


def _path(fault: ErrorDetails) -> list[str]:
    """Keys that lead to a fault; for a value that may be of two kinds, pydantic adds the kind, which is no key."""
    path = [str(part) for part in fault["loc"]]
    known = fault["type"] == "extra_forbidden" or path[-1:] == [] or path[-1].isdigit()
    return path if known or path[-1] in _section(path[:-1]).model_fields else path[:-1]


def _expected(fault: ErrorDetails) -> str:
    if fault["type"] == "model_type":
        return "a section of key: value lines"
    if fault["type"] == "string_pattern_mismatch":  # only `name` has one
        return "a letter from A to Z or a digit, then letters, digits, and the signs . _ -"
    return fault["msg"].replace("Input should be", "").partition(", unable to parse")[0].strip()


def _section(path: Sequence[str]) -> type[Section]:
    section: type[Section] = Recipe
    for part in path:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        candidates = [annotation, *get_args(annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), section)
    return section
