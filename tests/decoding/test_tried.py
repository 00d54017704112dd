from __future__ import annotations

import pytest
import torch

from residency.decoding.tried import apart


def test_a_shift_of_all_logits_is_no_difference_and_another_row_is() -> None:
    torch.manual_seed(0)
    logits = torch.randn(500)
    assert apart(logits + 7, logits) == pytest.approx(0, abs=1e-5)
    assert apart(logits + 0.2 * torch.randn(500), logits) == pytest.approx(0.2, rel=0.2)
    assert apart(logits.flip(0), logits) > 1
