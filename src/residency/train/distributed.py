"""transformers' Trainer in several processes: each takes its own micro-batches of a step, and the gradients meet once.

accelerate shares out whole batches and reduces gradients in the backward pass of some micro-batch. Here a step is cut
into as many micro-batches as it takes, other numbers of them on other ranks, none on some. So each rank goes through
its own alone; then one backward pass that adds nothing has DistributedDataParallel bring the gradients together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.training_args import ParallelMode

from residency import ranks
from residency.errors import UserError
from residency.train import sharded
from residency.workspace import replacing as replacing_alone


class Gradients(torch.nn.Module):
    """A model for DistributedDataParallel to reduce the gradients of, whatever has gathered them."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, nothing: torch.Tensor) -> torch.Tensor:
        """Zero, with a backward pass through each weight that learns, which leaves its gradient as it is."""
        learning = [weight.sum().float() for weight in self.model.parameters() if weight.requires_grad]
        return torch.stack(learning).sum() * nothing


class RankedTrainer(Trainer):
    """A trainer that is one of several, or alone.

    A share of the loss is to be multiplied by `ranks.world()`, since gradients and losses are averaged over the ranks.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate shards on GPUs and their like alone; what is under it does so on CPUs too, as the tests need."""
        if self.args.fsdp and self.args.bf16:  # gradients of many ranks are summed up in float32
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            self.args.fsdp_plugin_args["mixed_precision_policy"] = policy
        super().create_accelerator_and_postprocess()
        state: Any = self.accelerator.state
        if self.args.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            from accelerate.utils import FullyShardedDataParallelPlugin

            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def train(self, *args: Any, **options: Any) -> Any:
        """transformers' own loop; each rank's dropout and noise are its own, as its examples are."""
        if ranks.world() > 1:
            torch.manual_seed(self.args.seed + ranks.rank())
        return super().train(*args, **options)

    @property
    def replicated(self) -> bool:
        """Whether each of the ranks holds the whole model, with DistributedDataParallel between them."""
        several = self.args.parallel_mode == ParallelMode.DISTRIBUTED
        return several and not self.is_fsdp_enabled and not self.is_deepspeed_enabled

    @property
    def in_step(self) -> bool:
        """Whether the ranks have to go through the model equally often: each pass then fetches weights from all."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def called(self) -> Any:
        """The model to call."""
        return self.model_wrapped if self.is_deepspeed_enabled else self.model

    def get_train_dataloader(self) -> Any:
        """Each rank sees every example: the collator takes out those that are dealt to it."""
        if ranks.world() == 1:
            return super().get_train_dataloader()
        dataset: Any = self.train_dataset
        loader: Any = DataLoader(
            dataset,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(dataset),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        wrapped = super()._wrap_model(model, training, dataloader)
        if wrapped is not self.model or not self.replicated:
            return wrapped
        self.accelerator.prepare_model(self.model, evaluation_mode=True)  # its precision, as in one process
        return self.accelerator.prepare_model(Gradients(self.model))

    def backward(self, share: torch.Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; DeepSpeed takes its step after the last one by itself."""
        if self.is_deepspeed_enabled:
            self.accelerator.gradient_state._set_sync_gradients(last)
            self.accelerator.backward(share, scale_wrt_gas=False)
        else:
            self.accelerator.backward(share)

    def reduce_gradients(self) -> None:
        """The mean of the ranks' gradients on each, after its last micro-batch; where it had none, of the others'."""
        if self.replicated and self.model_wrapped is not self.model:
            self.model_wrapped(torch.zeros((), device=self.args.device)).backward()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        sharded.save(self.model, self.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        if sharded.holds(checkpoint):
            sharded.load_weights(model or self.model, checkpoint)
            return
        if self.is_fsdp_enabled:
            raise UserError(
                f"{checkpoint}: was written by ranks that held the whole model",
                "under train.distributed.strategy fsdp, one written in parts",
                "go on with strategy ddp, or begin anew with train.continue_from",
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharded.holds(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        sharded.load_optimizer(self.model, self.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))


def refuse_deepspeed(settings: Path) -> None:
    """Nothing, where DeepSpeed can be asked for with these settings.

    Raises:
        UserError: it is not installed, its settings can't be read, or they divide the weights themselves.
    """
    where = f"train.distributed.deepspeed {settings}"
    try:
        stage = json.loads(settings.read_text("utf-8")).get("zero_optimization", {}).get("stage", 0)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: can't be read ({error})", "a JSON file of DeepSpeed's settings") from error
    if stage not in (0, 1, 2):
        raise UserError(
            f"{where}: zero_optimization.stage is {stage}", "0, 1 or 2", "strategy fsdp divides the weights too"
        )
    if find_spec("deepspeed") is None:
        raise UserError("train.distributed.strategy deepspeed: DeepSpeed is not installed", fix="pip install deepspeed")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """`workspace.replacing` by all ranks: each may write into the folder, and the first has it take its place.

    The first leaves the block last: what it does after `ranks.wait()` sees the files of all.
    """
    with replacing_alone(target) if ranks.first() else nullcontext(target.with_name(f".{target.name}.partial")) as made:
        if ranks.first():
            made.mkdir()
        ranks.wait()
        yield made
    ranks.wait()
