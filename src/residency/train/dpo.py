"""TRL's DPOTrainer with the batches, checkpoints and validation of supervised training, and tokens made by our prompt.

Imported only where a recipe asks for it: TRL is an extra. What the reference says of each pair is computed once, before
the first step, and kept beside the checkpoints: a training that goes on reads the same numbers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from residency.batches import IGNORED, cut
from residency.errors import UserError
from residency.progress import Progress
from residency.sections import DpoSection
from residency.train import checkpoints
from residency.train.rewards import Floats, Likelihoods, Rewards, compared
from residency.train.steps import Given
from residency.train.trainer import ResidencyTrainer
from residency.workspace import replacing

REFERENCE = "reference.safetensors"
IDS = ("chosen_ids", "rejected_ids")
COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # as TRL calls what the reference says


class PairCollator:
    """A step's pairs as micro-batches of TRL's tensors: first the chosen, then the rejected answers."""

    def __init__(self, pad_id: int, tokens_per_batch: int) -> None:
        self.padded, self.tokens_per_batch = DataCollatorForPreference(pad_token_id=pad_id), tokens_per_batch

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Cut and pad the pairs of one optimizer step."""
        batches = [self.padded([pairs[place] for place in places]) for places in self.cut(pairs)]
        return {"micro_batches": batches, "given": Given(pairs)}

    def cut(self, pairs: Iterable[dict[str, Any]]) -> list[list[int]]:
        """Places of the pairs in each micro-batch; a pair takes two rows as long as its longer answer's."""
        return cut([length_of(pair) for pair in pairs], self.tokens_per_batch // 2)


class PreferenceTrainer(ResidencyTrainer, DPOTrainer):  # type: ignore[misc]
    """One optimizer step is the mean of TRL's loss over the step's pairs, however they were cut."""

    def __init__(
        self,
        *,
        section: DpoSection,
        pairs: Mapping[str, Dataset],
        args: TrainingArguments,
        model: Any,
        processing_class: Any,
        progress: Progress,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **options: Any,
    ) -> None:
        """The data sets that supervised training would have are not used: `pairs` holds those of each split.

        Raises:
            UserError: checkpoints are there to go on from, and what the reference said is not.
        """
        pad, learning = model.config.pad_token_id, _learning(model)
        super().__init__(
            model=model,
            args=config(args, section),
            train_dataset=pairs["train"],
            eval_dataset=pairs.get("validation"),
            processing_class=copy.deepcopy(processing_class),  # TRL gives it a padding token where it has none
            **options,
        )
        self.processing_class, model.config.pad_token_id = None, pad
        for name, weight in _learning(model).items():  # TRL rounds those of a packed model to bf16
            model.get_parameter(name).data = learning[name].to(weight.device)
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")  # what it would say is said before it could differ
        self.section, self.progress, self.judged = section, progress, self.judge
        self.judge = self._judge
        self.collator = self.data_collator = PairCollator(self.pad_id, self.tokens_per_batch)
        self.pairs, self.start = self._with_reference(pairs)
        self.train_dataset, self.eval_dataset = self.pairs["train"], self.pairs.get("validation")

    def _send_telemetry(self) -> None:
        """TRL tells its makers of each training. Nothing leaves this machine unasked."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """They are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        """Done once everything is in place, see `_with_reference`."""
        return dataset

    def _step(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The mean loss of a step's pairs."""
        started = time.perf_counter()
        self._metrics["train"].clear()  # of a try that found too little memory
        model.train()
        batches = self._prepare_inputs(inputs)["micro_batches"]
        sizes = [len(batch["input_ids"]) // 2 for batch in batches]
        loss = torch.zeros((), device=self.args.device)
        for batch, size in zip(batches, sizes, strict=True):
            self._choose_attention(batch["input_ids"].shape[1])
            with self.compute_loss_context_manager():
                share = self._compute_loss(model, batch, return_outputs=False) * size / sum(sizes)
            self.accelerator.backward(share)
            loss += share.detach()
        for name, values in self._metrics["train"].items():  # TRL would log their plain mean
            if len(values) == len(sizes):
                self._metrics["train"][name] = [float(np.average(values, weights=sizes))]
        measures = {"answer_tokens": "completion_mask", "total_tokens": "attention_mask"}
        tokens = {name: sum(int(batch[mask].sum()) for batch in batches) for name, mask in measures.items()}
        self._gone_through(tokens | {"passed_tokens": sum(batch["input_ids"].numel() for batch in batches)}, started)
        return loss

    def validation_loss(self, eval_dataset: Any = None) -> float:
        """Mean of TRL's loss over the validation pairs, or other pairs that bear what the reference says of them."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        loss, found = self._look(dataset)
        self.rewards = Rewards.of(found, _reference(dataset), self.beta)
        return loss

    def held_out(self, resamples: int) -> dict[str, Any]:
        """Preferences on the validation and the test pairs, as training began and now; see `rewards.compared`."""
        found = {}
        for name, start in self.start.items():
            dataset = self.pairs[name]
            tokens = Likelihoods(*(np.array([len(ids) for ids in dataset[column]], dtype=float) for column in IDS))
            now = self._look(dataset)[1]
            found[name] = compared(
                start, now, reference=_reference(dataset), tokens=tokens, beta=self.beta, resamples=resamples
            )
        return found

    def _judge(self, model: Any) -> dict[str, float]:
        """The rewards of the validation that was just gone through, and what answers say, where they are asked for."""
        return self.rewards.means() | (self.judged(model) if self.judged else {})

    def _look(self, dataset: Dataset) -> tuple[float, Likelihoods]:
        """TRL's loss over pairs, and how likely their answers are."""
        sums = np.zeros((2, len(dataset)))
        kept: list[torch.Tensor] = []
        self.model.eval()
        hook = self.model.register_forward_hook(lambda _module, _inputs, out: kept.append(out.log_probs))
        loss = 0.0
        try:
            with torch.no_grad():
                for places, batch in self._batches(dataset):
                    with self.compute_loss_context_manager():
                        loss += float(self._compute_loss(self.model, batch, return_outputs=False)) * len(places)
                    sums[:, places] = _sums(kept.pop())
        finally:
            hook.remove()
            self._metrics["eval"].clear()  # TRL would log the mean of the batches, whatever their sizes
        return loss / len(dataset), Likelihoods(*sums)

    def _batches(self, dataset: Dataset) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Places of the pairs and their micro-batch on the device, in the attention that is fast at its length."""
        for places in self.collator.cut(dataset):
            batch = self.collator.padded([dataset[place] for place in places])
            self._choose_attention(batch["input_ids"].shape[1])
            yield places, self._prepare_inputs(batch)

    def _with_reference(self, pairs: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], dict[str, Likelihoods]]:
        """The pairs with what the reference says of them, and what the model says of those held out as it begins."""
        folder = Path(self.args.output_dir or "")
        if checkpoints.steps(folder):
            found = _read(folder / REFERENCE, pairs)
        else:
            found = self._say_all(pairs)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / REFERENCE) as file:
                save_file(found, file)
        named = {}
        for name, dataset in pairs.items():
            chosen, rejected = found[f"{name}.reference"].tolist()
            named[name] = dataset.add_column(COLUMNS[0], chosen).add_column(COLUMNS[1], rejected)
        return named, {name: Likelihoods(*found[f"{name}.start"]) for name in pairs if name != "train"}

    def _say_all(self, pairs: Mapping[str, Dataset]) -> dict[str, Floats]:
        """Log-probabilities [2, pairs] by the reference, and of what is held out by the model as training begins."""
        found: dict[str, Floats] = {}
        total, done = sum(map(len, pairs.values())), 0
        for name, dataset in pairs.items():
            if self.section.reference == "base":
                with self.model.disable_adapter():
                    found[f"{name}.reference"] = self._say(dataset, done, total)
            if name != "train" or self.section.reference == "start":
                found[f"{name}.start"] = self._say(dataset, done, total)
            if self.section.reference == "start":
                found[f"{name}.reference"] = found[f"{name}.start"].copy()
            done += len(dataset)
        return found

    def _say(self, dataset: Dataset, done: int, total: int) -> Floats:
        """Log-probabilities [2, pairs] of the chosen and the rejected answers by the model as it stands."""
        sums = np.zeros((2, len(dataset)))
        self.model.eval()
        with torch.no_grad():
            for places, batch in self._batches(dataset):
                labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
                with self.compute_loss_context_manager():
                    said = self.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs
                sums[:, places] = _sums(said)
                done += len(places)
                self.progress.step("Reference", done, total, "pairs")
        return sums


def config(options: TrainingArguments, section: DpoSection) -> DPOConfig:
    """transformers' arguments as TRL's, with the recipe's settings of DPO; nothing is left to TRL's own defaults."""
    given = {field.name: getattr(options, field.name) for field in fields(TrainingArguments) if field.init}
    return DPOConfig(
        **given,
        beta=section.beta,
        loss_type=[section.loss_type],
        label_smoothing=section.label_smoothing,
        max_length=None,  # the prompt has cut what is too long
        precompute_ref_log_probs=True,
    )


def length_of(pair: Mapping[str, Any]) -> int:
    """Tokens of a pair's longer row."""
    return len(pair["prompt_ids"]) + max(len(pair[name]) for name in IDS)


def _learning(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def _sums(log_probs: torch.Tensor) -> Floats:
    """Of each answer's tokens [rows, tokens] their sum [2, pairs]; TRL has zeros where no loss is taken."""
    found: Floats = log_probs.double().sum(dim=1).view(2, -1).cpu().numpy()
    return found


def _reference(dataset: Dataset) -> Likelihoods:
    return Likelihoods(*(np.array(dataset[column]) for column in COLUMNS))


def _read(file: Path, pairs: Mapping[str, Dataset]) -> dict[str, Floats]:
    """What the reference said when training began.

    Raises:
        UserError: the file is missing, damaged or of other pairs.
    """
    try:
        found: dict[str, Floats] = load_file(file)
        if all(found[f"{name}.reference"].shape == (2, len(dataset)) for name, dataset in pairs.items()):
            return found
        reason = "of other pairs"
    except (OSError, SafetensorError, KeyError) as error:
        reason = str(error)
    raise UserError(
        f"{file}: can't be read ({reason})",
        "what the reference said of each pair when training began",
        "train anew, without --resume",
    ) from None
