"""The systems of `train_speed.py` with a training loop of their own, which is theirs but for the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peer_tools import IGNORED, Clock, Given, Losses, validated


def litgpt(given: Given, clock: Clock) -> Losses:
    """LitGPT's own fine-tuning loop, in bf16 mixed precision, on rows that are tokens already."""
    import litgpt.finetune.full
    import litgpt.finetune.lora
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule
    from litgpt.data.base import get_sft_collate_fn
    from litgpt.prompts import Default
    from torch.utils.data import DataLoader

    class Rows(DataModule):
        """The rows in LitGPT's form."""

        def __init__(self) -> None:
            super().__init__()
            self.prompt_style = Default()

        def connect(
            self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any
        ) -> None:
            self.size = batch_size

        def train_dataloader(self) -> Any:
            return self.loader(given["rows"])

        def val_dataloader(self) -> Any:
            return self.loader(given["rows"][:1])

        def loader(self, rows: list[dict[str, Any]]) -> Any:
            items = [
                {
                    "input_ids": torch.tensor(row["input_ids"]),
                    "labels": torch.tensor(row["labels"]),
                    "token_counts": {"raw": len(row["input_ids"]), "raw_plus_prompt_template": len(row["input_ids"])},
                }
                for row in rows
            ]
            collate = get_sft_collate_fn(max_seq_length=2048, ignore_index=IGNORED)
            return DataLoader(items, batch_size=self.size, shuffle=True, collate_fn=collate)

    module = litgpt.finetune.full if given["method"] == "full" else litgpt.finetune.lora
    kept: dict[str, Any] = {}
    load = module.load_checkpoint

    def loading(fabric: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        kept["model"] = model
        return load(fabric, model, *args, **kwargs)

    fit = module.fit

    def fitting(*args: Any, **kwargs: Any) -> Any:
        clock.begin()
        return fit(*args, **kwargs)

    clock.watch(torch.optim.AdamW)
    module.load_checkpoint, module.fit = loading, fitting
    module.get_lr_scheduler = lambda optimizer, *_, **__: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    module.save_checkpoint = lambda *_, **__: None
    module.generate_example = lambda *_, **__: None
    module.merge_lora = lambda *_, **__: None  # of what was not saved
    module.save_hyperparameters = lambda *_, **__: None  # it reads its command line for them
    options = (
        {
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_query": True,
            "lora_key": True,
            "lora_value": True,
            "lora_projection": True,
        }
        if given["method"] == "lora"
        else {}
    )
    module.setup(
        checkpoint_dir=Path(given["lit_folder"]),
        out_dir=Path(given["scratch"]),
        precision="bf16-mixed",
        data=Rows(),
        train=TrainArgs(
            save_interval=10**6,
            log_interval=10**6,
            global_batch_size=given["examples_per_step"],
            micro_batch_size=4,
            lr_warmup_steps=1,  # it divides by this
            epochs=2,
            max_steps=given["steps"],
        ),
        eval=EvalArgs(interval=10**6, max_new_tokens=1, max_iters=1, initial_validation=False, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": given["learning_rate"]}},
        **options,
    )
    return validated(kept["model"], given)


def torchtune(given: Given, clock: Clock, compile: bool = False, dtype: str = "bf16") -> Losses:
    """torchtune's recipe for full fine-tuning on one device, wholly in bf16 as its configurations have it.

    The model is its Llama 3.2 at the sizes in config.json, without the scaling of positions.
    """
    import importlib.util

    import torch
    import torchtune
    from omegaconf import OmegaConf
    from torchtune.data import padded_collate_sft

    file = Path(torchtune.__file__).parents[1] / "recipes" / "full_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("recipe", file)
    recipe = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(recipe)  # type: ignore[union-attr]

    class OnRows(recipe.FullFinetuneRecipeSingleDevice):  # type: ignore[misc, name-defined]
        """The recipe on rows that are tokens already; what was trained is not needed."""

        def _setup_data(self, *_: Any, **__: Any) -> Any:
            rows = [{"tokens": row["input_ids"], "labels": row["labels"]} for row in given["rows"]]
            sampler = recipe.StatefulDistributedSampler(rows, num_replicas=1, rank=0, shuffle=True)
            return recipe.StatefulDataLoader(rows, batch_size=4, sampler=sampler, collate_fn=padded_collate_sft)

        def save_checkpoint(self, *_: Any, **__: Any) -> None:
            pass

    numbers = json.loads((Path(given["model"]) / "config.json").read_text("utf-8"))
    settings = {
        "output_dir": given["scratch"],
        "device": given["device"],
        "dtype": dtype,
        "seed": given["seed"],
        "epochs": 1,
        "batch_size": 4,
        "gradient_accumulation_steps": max(given["examples_per_step"] // 4, 1),
        "max_steps_per_epoch": given["steps"],
        "resume_from_checkpoint": False,
        "optimizer_in_bwd": False,
        "shuffle": True,
        "compile": compile,
        "dataset": {},
        "tokenizer": {"_component_": "types.SimpleNamespace"},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": given["learning_rate"]},
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": given["scratch"]},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": given["model"],
            "checkpoint_files": ["model.safetensors"],
            "output_dir": given["scratch"],
            "model_type": "LLAMA3_2",
        },
        "model": {
            "_component_": "torchtune.models.llama3_2._component_builders.llama3_2",
            "vocab_size": numbers["vocab_size"],
            "num_layers": numbers["num_hidden_layers"],
            "num_heads": numbers["num_attention_heads"],
            "num_kv_heads": numbers["num_key_value_heads"],
            "embed_dim": numbers["hidden_size"],
            "intermediate_dim": numbers["intermediate_size"],
            "max_seq_len": 2048,
            "rope_base": int(numbers["rope_parameters"]["rope_theta"]),
            "norm_eps": numbers["rms_norm_eps"],
            "scale_factor": 1,
        },
    }
    clock.watch(torch.optim.AdamW)
    config = OmegaConf.create(settings)
    own = OnRows(config)
    own.setup(config)
    clock.begin()
    own.train()
    own._model.num_output_chunks = 0
    return validated(own._model.float(), given)
