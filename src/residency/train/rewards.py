"""What a model prefers: the log-likelihoods of chosen and rejected answers, and the rewards that DPO reads in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Likelihoods:
    """Log-probabilities (nats) of the chosen and the rejected answers of pairs [pairs], summed over their tokens."""

    chosen: Floats
    rejected: Floats


@dataclass(frozen=True)
class Rewards:
    """The implicit rewards of some pairs [pairs]: beta times how much likelier an answer is than to the reference."""

    chosen: Floats
    rejected: Floats

    @classmethod
    def of(cls, model: Likelihoods, reference: Likelihoods, beta: float) -> Rewards:
        """Rafailov et al. 2023 (arXiv:2305.18290), equation 5, without the term that both answers share."""
        return cls(beta * (model.chosen - reference.chosen), beta * (model.rejected - reference.rejected))

    @property
    def margins(self) -> Floats:
        """How much more the chosen answer is rewarded than the rejected one [pairs]."""
        return self.chosen - self.rejected

    def means(self) -> dict[str, float]:
        """The mean of each over the pairs."""
        return {name: float(values.mean()) for name, values in self.values().items()}

    def values(self) -> dict[str, Floats]:
        """Each pair's numbers by name; where both rewards are the same, the pair counts as half told apart."""
        return {
            "reward_accuracy": (np.sign(self.margins) + 1) / 2,
            "reward_margin": self.margins,
            "chosen_reward": self.chosen,
            "rejected_reward": self.rejected,
        }


def compared(
    before: Likelihoods,
    after: Likelihoods,
    *,
    reference: Likelihoods,
    tokens: Likelihoods,
    beta: float,
    resamples: int,
) -> dict[str, Any]:
    """Preferences of a model before and after training on the same pairs, each mean with its 95% interval.

    `likelier` is the share of pairs whose chosen answer has the higher log-probability a token: unlike the rewards it
    says something of the model before training, too. `tokens` holds the answers' lengths.
    """
    values = [
        {"likelier": _likelier(model, tokens), **Rewards.of(model, reference, beta).values()}
        for model in (before, after)
    ]
    draws = np.random.default_rng(0).integers(0, len(after.chosen), size=(resamples, len(after.chosen)))
    return {
        "pairs": len(after.chosen),
        "metrics": {
            name: {
                "before": _interval(values[0][name], draws),
                "after": _interval(values[1][name], draws),
                "difference": _interval(values[1][name] - values[0][name], draws),
            }
            for name in values[0]
        },
    }


def _likelier(model: Likelihoods, tokens: Likelihoods) -> Floats:
    return (np.sign(model.chosen / tokens.chosen - model.rejected / tokens.rejected) + 1) / 2


def _interval(values: Floats, draws: NDArray[np.int64]) -> dict[str, float]:
    """The mean, and its 95% percentile bootstrap interval over the pairs (Efron 1979)."""
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
