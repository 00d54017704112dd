"""One training by one system, in the environment that it is installed in: what `train_speed.py` starts.

    python benchmarks/train_peer.py SYSTEM GIVEN.json FOUND.json

GIVEN holds the model's folder, rows of tokens, and how to train; FOUND gets the seconds of each optimizer step, those
before the first, the peak of memory, and the loss on the validation rows. Nothing here imports Residency but its own
function, so that the file runs in any of the environments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()
IGNORED = -100
Given = dict[str, Any]


class Clock:
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.first_begun = 0.0

    def begin(self) -> None:
        self.first_begun = self.first_begun or time.perf_counter()

    def end(self) -> None:
        self.ends.append(time.perf_counter())

    def callback(self) -> Any:
        """The clock as transformers' Trainer calls it."""
        from transformers import TrainerCallback

        clock = self

        class Watch(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.end()

        return Watch()


def main() -> None:
    system, given_file, found_file = sys.argv[1:4]
    given = json.loads(Path(given_file).read_text("utf-8"))
    clock = Clock()
    loss = SYSTEMS[system](given, clock)
    begins = [clock.first_begun, *clock.ends[:-1]]
    found = {
        "to_first_step": clock.ends[0] - BEGUN,
        "seconds": [end - begin for begin, end in zip(begins, clock.ends, strict=True)],
        "peak_bytes": clock_peak(),
        "loss": loss,
    }
    Path(found_file).write_text(json.dumps(found), "utf-8")


def clock_peak() -> int:
    """Bytes that the process held at most; the evaluation of the loss comes after and is no larger."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# The peers


def tutorial(given: Given, clock: Clock, **changed: Any) -> float:
    """transformers' Trainer as the tutorial has it: float32, one example at a time, accumulated, Adafactor."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer = loaded(given)
    arguments = {
        "output_dir": given["scratch"],
        "max_steps": given["steps"],
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": given["examples_per_step"],
        "learning_rate": given["learning_rate"],
        "optim": "adafactor",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": given["device"] == "cpu",
        "logging_strategy": "no",
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments | changed),
        train_dataset=given["rows"],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[clock.callback()],
    )
    trainer.train()
    return validated(trainer.model, given)


def tutorial_bf16(given: Given, clock: Clock) -> float:
    """The same with bf16."""
    return tutorial(given, clock, bf16=True)


def trl(given: Given, clock: Clock, **changed: Any) -> float:
    """TRL's SFTTrainer with its defaults."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = loaded(given)
    size = changed.pop("size", 8)
    arguments = {
        "output_dir": given["scratch"],
        "max_steps": given["steps"],
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": max(given["examples_per_step"] // size, 1),
        "learning_rate": given["learning_rate"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": given["device"] == "cpu",
        "logging_strategy": "no",
        "max_length": 2048,
    }
    rows = [
        {"input_ids": row["input_ids"], "completion_mask": [int(label != IGNORED) for label in row["labels"]]}
        for row in given["rows"]
    ]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments | changed),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock.callback()],
    )
    trainer.train()
    return validated(trainer.model, given)


def trl_best(given: Given, clock: Clock) -> float:
    """TRL without activation checkpointing, its micro-batches as large as is fast here."""
    return trl(given, clock, gradient_checkpointing=False, size=4)


def trl_packed(given: Given, clock: Clock) -> float:
    """TRL with rows packed into sequences of 1,024 tokens, as many of them a step as hold its examples.

    Where no kernel keeps packed rows apart, as on a CPU, they see each other: TRL warns of it.
    """
    total = sum(len(row["input_ids"]) for row in given["rows"])
    rows = max(round(total / given["steps"] / 1024), 1)
    return trl(
        given | {"examples_per_step": rows},
        clock,
        gradient_checkpointing=False,
        size=1,
        packing=True,
        max_length=1024,
    )


def litgpt(given: Given, clock: Clock) -> float:
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
    step, load = torch.optim.AdamW.step, module.load_checkpoint

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = step(self, *args, **kwargs)
        clock.end()
        return found

    def loading(fabric: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        kept["model"] = model
        return load(fabric, model, *args, **kwargs)

    fit = module.fit

    def fitting(*args: Any, **kwargs: Any) -> Any:
        clock.begin()
        return fit(*args, **kwargs)

    torch.optim.AdamW.step, module.load_checkpoint, module.fit = timed, loading, fitting
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
    model = kept["model"]
    return validated(model, given)


def llamafactory(given: Given, clock: Clock) -> float:
    """LLaMA-Factory's trainer over its own data pipeline replaced by rows that are tokens already."""
    from llamafactory.train.sft import workflow
    from llamafactory.train.tuner import run_exp

    kept: dict[str, Any] = {}

    def rows(*_: Any, **__: Any) -> Any:
        from datasets import Dataset

        made = [
            row | {"attention_mask": [1] * len(row["input_ids"]), "images": None, "videos": None, "audios": None}
            for row in given["rows"]
        ]
        return {"train_dataset": Dataset.from_list(made)}

    real = workflow.CustomSeq2SeqTrainer

    class Kept(real):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            kept["trainer"] = self

        def save_model(self, *_: Any, **__: Any) -> None:
            """What was trained is not needed."""

    workflow.get_dataset, workflow.CustomSeq2SeqTrainer = rows, Kept
    run_exp(
        {
            "model_name_or_path": given["model"],
            "stage": "sft",
            "do_train": True,
            "dataset": "rows",
            "finetuning_type": given["method"],
            "template": "default",
            "output_dir": given["scratch"],
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": max(given["examples_per_step"] // 4, 1),
            "learning_rate": given["learning_rate"],
            "max_steps": given["steps"],
            "bf16": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_strategy": "no",
            "lora_rank": 16,
            "lora_alpha": 32,
            "lora_target": "q_proj,k_proj,v_proj,o_proj",
            "use_cpu": True,
            "overwrite_output_dir": True,
        },
        callbacks=[clock.callback()],
    )
    return validated(kept["trainer"].model, given)


def torchtune(given: Given, clock: Clock, compile: bool = False) -> float:
    """torchtune's recipe for full fine-tuning on one device, all in bf16 as its configurations have it.

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
        "dtype": "bf16",
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
    step = torch.optim.AdamW.step

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = step(self, *args, **kwargs)
        clock.end()
        return found

    torch.optim.AdamW.step = timed
    config = OmegaConf.create(settings)
    own = OnRows(config)
    own.setup(config)
    clock.begin()
    own.train()
    own._model.num_output_chunks = 0
    return validated(own._model.float(), given)


def residency(given: Given, clock: Clock, compile: bool = True, settings: Sequence[str] = ()) -> float:
    """`residency train` on the run that the rows were taken from."""
    from residency.models import load_prompt
    from residency.train import fit
    from residency.workspace import Run

    run = Run.open(given["run"])
    recipe = run.load_recipe([*given["settings"], f"train.compile={json.dumps(compile)}", *settings])
    kept: dict[str, Any] = {}
    fit._save = lambda trainer, *_: kept.setdefault("model", trainer.model) and None  # nothing is merged or written
    fit.train(recipe, run, load_prompt(recipe), callbacks=[clock.callback()])
    return validated(kept["model"], given)


SYSTEMS: dict[str, Callable[[Given, Clock], float]] = {
    "tutorial": tutorial,
    "tutorial-bf16": tutorial_bf16,
    "trl": trl,
    "trl-best": trl_best,
    "trl-packed": trl_packed,
    "litgpt": litgpt,
    "llamafactory": llamafactory,
    "torchtune": torchtune,
    "torchtune-compiled": partial(torchtune, compile=True),
    "residency": residency,
    "residency-plain": partial(residency, compile=False),
    "residency-lean": partial(residency, settings=("train.optimizer=adafactor", "train.tokens_per_batch=512")),
}


# What they share


def loaded(given: Given) -> tuple[Any, Any]:
    """The model, with adapters where they are what learns, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(given["seed"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if given["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, target_modules=given["targets"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    return model, tokenizer


def validated(model: Any, given: Given) -> float:
    """Mean cross-entropy (nats) of the validation rows' answer tokens, one row at a time, in float32."""
    import torch

    if isinstance(model, torch.nn.Module):
        model = model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in given["validation"]:
            output = model(torch.tensor([row["input_ids"]]))
            logits = (output if isinstance(output, torch.Tensor) else output.logits)[0, :-1].float()
            labels = torch.tensor(row["labels"])[1:]
            total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            tokens += int((labels != IGNORED).sum())
    return total / tokens


if __name__ == "__main__":
    main()
