"""Attention of a layer, forward and backward, by each way there is on a CPU: in turns, in one process.

    python benchmarks/attention_speed.py

The heads are SmolLM2-135M's (9 of 64, 3 for keys and values) in bf16; rows all of a length, 2,048 tokens together, or
one row of more.
`eager` is transformers' plain attention under a causal mask, `SDPA` torch's own, `by row` residency.row_attention.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from types import SimpleNamespace

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from residency import environment, row_attention

HEADS, GROUPS, SIZE, TOKENS = 9, 3, 64, 2048
LENGTHS = (64, 128, 192, 256, 384, 512, 1024, 2048, 4096)


class Case:
    """Rows of one length, as each way takes them."""

    def __init__(self, length: int) -> None:
        self.length, rows = length, max(TOKENS // length, 1)
        self.module = SimpleNamespace(training=True, num_key_value_groups=HEADS // GROUPS, is_causal=True)
        self.padded = [torch.randn(rows, heads, length, SIZE).bfloat16() for heads in (HEADS, GROUPS, GROUPS)]
        self.packed = [x.transpose(0, 1).flatten(1, 2)[None].contiguous() for x in self.padded]
        self.mask = torch.full((length, length), torch.finfo(torch.bfloat16).min).bfloat16().triu(1)[None, None]
        self.rows = row_attention.rows_of([length] * rows, 0)
        self.ways = {"eager": self.eager, "SDPA": self.sdpa, "by row": self.by_row}
        for x in (*self.padded, *self.packed):
            x.requires_grad_()

    def eager(self) -> torch.Tensor:
        """transformers' plain attention."""
        return eager_attention_forward(self.module, *self.padded, self.mask, scaling=SIZE**-0.5)[0]

    def sdpa(self) -> torch.Tensor:
        """torch's own, as transformers calls it."""
        return sdpa_attention_forward(self.module, *self.padded, None, scaling=SIZE**-0.5)[0]

    def by_row(self) -> torch.Tensor:
        """Ours."""
        return row_attention.attention(self.module, *self.packed, None, self.rows)[0]

    def seconds(self, way: str) -> float:
        """Of one pass forward and backward."""
        started = time.perf_counter()
        found = self.ways[way]()
        found.backward(torch.ones_like(found))
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    environment.keep_freed_memory()
    print("| tokens a row | eager, ms | SDPA, ms | by row, ms | SDPA by row | eager by row |")
    print("| --- | --- | --- | --- | --- | --- |")
    for length in LENGTHS:
        case, taken = Case(length), {"eager": list[float](), "SDPA": list[float](), "by row": list[float]()}
        for _ in range(rounds + 2):
            for way, seconds in taken.items():
                seconds.append(case.seconds(way))
        middle = {way: statistics.median(seconds[2:]) for way, seconds in taken.items()}
        ratios = [middle[way] / middle["by row"] for way in ("SDPA", "eager")]
        times = " | ".join(f"{1000 * value:.1f}" for value in middle.values())
        print(f"| {length:,} | {times} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
    print(
        f"\n{TOKENS:,} tokens (of the longest a row), {HEADS} heads of {SIZE}, {GROUPS} for keys and values, "
        f"bf16, middle of {rounds} rounds; "
        f"{environment.describe()['machine']}, {torch.get_num_threads()} threads; torch {torch.__version__}; "
        f"{datetime.date.today().isoformat()}."
    )


if __name__ == "__main__":
    main()
