"""transformers' Trainer with its batches, loss and validation replaced; everything else stays as users know it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from residency import environment, ranks
from residency.batches import IGNORED, collate, cut
from residency.gradients import Scratch, added_in_place
from residency.loss import summed_loss
from residency.packing import WIDE_PADDED, attention_for
from residency.prompts import Example
from residency.train.best import Judge
from residency.train.checkpoints import CommittedCheckpoints
from residency.train.compiled import CompiledLayers
from residency.train.optimizers import muon as muon_for
from residency.train.packed import Packing
from residency.train.steps import EpochSampler, StepCollator, nothing_of
from residency.train.stopping import is_memory, refuse_one_each

# As TRL calls them, and as metrics.jsonl does.
REWARDS = {"rewards/margins": "reward_margin", "rewards/accuracies": "reward_accuracy"}


@dataclass
class Counts:
    """What has gone through the model so far, on all ranks; seconds of this one."""

    answer_tokens: int = 0
    total_tokens: int = 0
    passed_tokens: int = 0  # through the layers, padding included, a beginning that rows share once
    step_seconds: float = 0.0  # without those of the compiler
    compile_seconds: float = 0.0


class ResidencyTrainer(CommittedCheckpoints):
    """One optimizer step is one batch of the data loader: the step's examples, already cut into micro-batches.

    The loss is the mean over all answer tokens of the step, however they were cut: the same step on any machine.
    """

    model: Any
    recuts = True  # whether a step that finds too little memory is cut anew

    def __init__(
        self,
        *,
        validation: Sequence[Example],
        pad_id: int,
        tokens_per_batch: int,
        judge: Judge | None = None,
        rate: Callable[[int], float] | None = None,
        smoothing: float = 0.0,
        muon: bool = False,
        compiles: bool = False,
        int8: bool = False,
        packs: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> None:
        """`rate` gives the share of the learning rate at a step; `smoothing` is of the labels, in training alone.

        `compiles`: training steps go through compiled layers, `int8`: and back in 8-bit integers. `packs`: rows go
        through end to end. `tell` hears where they can't, and that a step found too little memory, and is gone through
        in smaller micro-batches.
        """
        even = bool(options["args"].fsdp or options["args"].deepspeed)
        collator = StepCollator(pad_id, tokens_per_batch, ranks.rank(), ranks.world(), even=even)
        super().__init__(data_collator=collator, **options)
        self.data_collator: Any
        self.validation, self.pad_id, self.tokens_per_batch, self.judge = validation, pad_id, tokens_per_batch, judge
        self.rate, self.smoothing, self.muon, self.tell = rate, smoothing, muon, tell
        self.counts, self.heap, self.scratch = Counts(), environment.Heap(), Scratch()
        self.layers = CompiledLayers(self.model, tell, bf16=self.args.bf16, int8=int8) if compiles else None
        self.packing = Packing(self.model, tell) if packs else None
        self.by_length = self.args.device.type == "cpu" and self.model.config._attn_implementation == "eager"

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        return EpochSampler(len(dataset), self.args.seed)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None  # training_step counts the answer tokens itself

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """transformers' own, or Muon, which it has not."""
        if self.optimizer is None and self.muon:
            decayed = self.get_decay_parameter_names(self.model)
            self.optimizer = muon_for(self.model, decayed, self.args.learning_rate, self.args.weight_decay)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The course that was handed in, or transformers' own where none was."""
        chosen: Any = optimizer or self.optimizer
        if self.lr_scheduler is None and self.rate is not None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, self.rate)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All but norms, biases and other vectors: a decayed magnitude or factor would wear down what is frozen."""
        vectors = {name for name, parameter in model.named_parameters() if max(parameter.shape) == parameter.numel()}
        return [name for name in super().get_decay_parameter_names(model) if name not in vectors]

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over a step's micro-batches; returns the mean loss of its answer tokens (nats).

        Where memory runs out, the step begins anew in micro-batches of half the size, as do those after it: the cut
        decides neither loss nor gradient. Of several processes none can do that alone.

        Raises:
            UserError: one example alone finds too little memory.
        """
        while True:
            try:
                return self._step(model, inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error) or not self.recuts or self.args.world_size > 1:
                    raise
                refuse_one_each(inputs, error)
            inputs = self._smaller(model, inputs)  # outside the handler, whose error holds on to what the try has made

    def _smaller(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The step's examples cut anew, under half of what its largest micro-batch took."""
        model.zero_grad(set_to_none=True)  # of the micro-batches before the one that failed
        self.scratch.release()
        environment.give_back_memory()
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        largest = max(batch["input_ids"].numel() for batch in inputs["micro_batches"])
        self.tokens_per_batch = self.data_collator.tokens_per_batch = max(min(self.tokens_per_batch, largest) // 2, 1)
        self.tell(
            f"Too little memory in step {self.state.global_step + 1}: smaller micro-batches from here on, "
            f"as with train.tokens_per_batch={self.tokens_per_batch}"
        )
        again: dict[str, Any] = self.data_collator(inputs["given"].examples)
        return again

    def _step(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        started = time.perf_counter()
        model.train()
        batches, tokens = self._prepare_inputs(inputs)["micro_batches"], inputs["tokens"]
        each = ranks.world() / max(tokens["answer_tokens"], 1)  # the losses of the ranks are averaged
        loss, passed = torch.zeros((), device=self.args.device), 0
        for place, batch in enumerate(batches, start=1):
            self._choose_attention(batch["input_ids"].shape[1])
            with self._packed(batch) as rows, self._in_place():
                with self.compute_loss_context_manager(), self._compiled(rows):
                    share = summed_loss(self.called, rows, self.smoothing) * each
                self.backward(share, last=place == len(batches))
            loss, passed = loss + share.detach(), passed + rows["input_ids"].numel()
        self.reduce_gradients()
        self._gone_through(tokens | {"passed_tokens": int(ranks.summed([passed])[0])}, started)
        return loss

    def _gone_through(self, tokens: dict[str, int], started: float) -> None:
        """Count a step's tokens, and give back what the heap has outgrown."""
        for name, count in tokens.items():
            setattr(self.counts, name, getattr(self.counts, name) + count)
        if self.args.device.type == "cpu":
            self.heap.settle()
        if self.muon or not self.args.optim.startswith("adamw"):
            self.scratch.release()  # others than AdamW make copies of the largest weight, and find the room there
        compiling = self.layers.take_seconds() if self.layers else 0.0
        self.counts.compile_seconds += compiling
        self.counts.step_seconds += time.perf_counter() - started - compiling

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean cross-entropy of the validation answers' tokens (nats), as `eval_loss`, and the judge's metrics."""
        metrics = {f"{metric_key_prefix}_loss": self.validation_loss(eval_dataset)}
        if self.judge:
            found = ranks.told(self._judged)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation_loss(self, eval_dataset: Any = None) -> float:
        """Mean cross-entropy (nats) of the answer tokens of the validation set, or of other examples."""
        examples = list(eval_dataset) if eval_dataset is not None else list(self.validation)
        self.scratch.release()
        environment.give_back_memory(collect=False)
        self.model.eval()
        summed = tokens = 0.0
        with torch.no_grad():
            for batch in self._own(examples):
                self._choose_attention(batch["input_ids"].shape[1])
                with self.compute_loss_context_manager(), self._packed(batch) as rows:
                    summed += float(summed_loss(self.called, rows))
                tokens += int((batch["labels"][:, 1:] != IGNORED).sum())
        environment.give_back_memory(collect=False)
        summed, tokens = ranks.summed([summed, tokens])
        return summed / max(tokens, 1)

    def _packed(self, batch: dict[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        return self.packing.on(batch) if self.packing else nullcontext(batch)

    def _in_place(self) -> AbstractContextManager[None]:
        alone = self.args.device.type == "cpu" and self.args.world_size == 1
        return added_in_place(self.model, self.scratch) if alone else nullcontext()

    def _compiled(self, batch: dict[str, Any]) -> AbstractContextManager[None]:
        return self.layers.on(batch) if self.layers else nullcontext()

    def _own(self, examples: Sequence[Example]) -> Iterator[dict[str, torch.Tensor]]:
        """This rank's batches of some examples, which learn nothing."""
        batches = [[examples[i] for i in places] for places in cut(list(map(len, examples)), 2 * self.tokens_per_batch)]
        if self.in_step:
            batches += [[nothing_of(examples[0])]] * (-len(batches) % ranks.world())
        for batch in batches[ranks.rank() :: ranks.world()]:
            yield self._prepare_inputs(collate(batch, self.pad_id))

    def _judged(self) -> dict[str, float]:
        """What the judge says of the model's answers; where each rank holds the whole model, the first asks for all."""
        assert self.judge is not None
        self._choose_attention(WIDE_PADDED)
        with self.compute_loss_context_manager():
            return self.judge(self.model)

    def _choose_attention(self, width: int) -> None:
        if self.by_length:
            self.model.config._attn_implementation = attention_for(
                self.model.config, width, packs=self.packing is not None
            )


class Recorder(TrainerCallback):
    """Hands each step's and each validation's numbers on as they come."""

    def __init__(self, counts: Callable[[], Counts], record: Callable[[dict[str, Any]], None], before: float) -> None:
        self.counts, self.record = counts, record
        self.started = time.perf_counter() - before  # seconds that the run took until it was stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        """A step's loss and learning rate, or a validation's loss."""
        logs = logs or {}
        row: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        if "eval_loss" in logs:
            row |= {f"validation_{key[5:]}": value for key, value in logs.items() if key.startswith("eval_")}
        elif "loss" in logs:
            row |= {name: logs[key] for key, name in REWARDS.items() if key in logs}
            row |= {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "grad_norm": logs.get("grad_norm")}
        else:
            return
        counts = self.counts()
        row |= {
            "seconds": round(time.perf_counter() - self.started, 3),
            **asdict(counts),
            "tokens_per_second": round(counts.total_tokens / counts.step_seconds, 1) if counts.step_seconds else None,
        }
        self.record(row)
