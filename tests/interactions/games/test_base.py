import numpy as np
import pytest
import torch

from interactions.games.base import REWARDS, log_odds


def test_rewards_against_their_definitions():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double()
    p = (logits.exp() / logits.exp().sum(dim=1, keepdim=True))[:, 2]
    torch.testing.assert_close(REWARDS["probability"](logits, 2), p)
    torch.testing.assert_close(REWARDS["log_prob"](logits, 2), p.log())
    torch.testing.assert_close(REWARDS["log_odds"](logits, 2), (p / (1 - p)).log())
    torch.testing.assert_close(REWARDS["logit"](logits, 2), logits[:, 2])


def test_log_odds_where_probability_is_one_to_all_digits():
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, 100.0, 100.0]])
    expected = torch.tensor([100 - np.log(2), -100 - np.log(2)], dtype=torch.float64)
    torch.testing.assert_close(log_odds(logits, 0), expected)


def test_log_odds_needs_two_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        log_odds(torch.zeros(1, 1), 0)
