"""The systems of `train_speed.py` that train by transformers' Trainer."""

from __future__ import annotations

from typing import Any

from peer_tools import IGNORED, Clock, Given, Losses, loaded, validated


def tutorial(given: Given, clock: Clock, **changed: Any) -> Losses:
    """transformers' Trainer as the tutorial has it: float32, one example at a time, accumulated, Adafactor."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer = loaded(given)
    arguments = {
        "output_dir": given["scratch"],
        "max_steps": given["steps"],
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": given["examples_per_step"],
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": "constant",
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


def tutorial_bf16(given: Given, clock: Clock) -> Losses:
    """The same with bf16."""
    return tutorial(given, clock, bf16=True)


def trl(given: Given, clock: Clock, **changed: Any) -> Losses:
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
        "lr_scheduler_type": "constant",
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


def trl_best(given: Given, clock: Clock) -> Losses:
    """TRL without activation checkpointing, its micro-batches as large as is fast here."""
    return trl(given, clock, gradient_checkpointing=False, size=4)


def trl_packed(given: Given, clock: Clock) -> Losses:
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


def llamafactory(given: Given, clock: Clock) -> Losses:
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
            "lr_scheduler_type": "constant",
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
