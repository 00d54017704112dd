"""The tests' chat model for programs that are no tests: benchmarks that measure a server and not a model."""

from __future__ import annotations

from pathlib import Path

from conftest import _tokenizer


def chat_model(folder: Path, window: int = 512, *, echo: bool = False) -> Path:
    """A Llama of some thousand random weights with a chat template, in a hub model's files.

    An `echo` has layers that add nothing, so that the likeliest next token is the last one of the prompt, again and
    again.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(folder, chat=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if echo and name.endswith(("o_proj.weight", "down_proj.weight")):
                weights.zero_()
    model.save_pretrained(folder)
    return folder
