"""The judge: close calls in float64, randomised models by majority."""

from __future__ import annotations

import torch
from torch import nn

from bench.judge import Judge


def test_judge_decides_close_calls_in_float64():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1e-9], [1.0, 0.0]]))
    x, judge = torch.ones(1, 1, 1, 2), Judge(net)
    assert torch.equal(*net(x)[0])  # a tie in float32
    assert judge(x, torch.tensor([0])).broken.tolist() == [False]
    assert judge(x, torch.tensor([1])).broken.tolist() == [True]
    judge(torch.zeros(3, 1, 1, 2), torch.tensor([0, 0, 0]))
    assert judge.close_calls == 5  # two near ties, and three exact ones


class Sums(nn.Module):
    """Class 0 wins by 3e-8; in float32 two of its terms are rounded away, and class 1 wins."""

    def forward(self, x):
        one = x.flatten(1)[:, 0]
        return torch.stack([one + 5e-8 + 5e-8, one + 7e-8], 1)


def test_a_margin_that_rounding_could_turn_is_close_and_no_other():
    x = torch.ones(1, 1, 1, 1)
    assert Sums()(x)[0].diff() > 1e-7
    assert Judge(Sums())(x, torch.tensor([0])).broken.tolist() == [False]
    for far, close in ((1.9e-4, 1), (2.1e-4, 0)):  # 1e-4 of 1 + the largest logit
        judge = Judge(lambda z, far=far: torch.tensor([[1.0, 1.0 - far]]))
        judge(x, torch.tensor([0]))
        assert judge.close_calls == close


def test_majority_of_passes_judges_a_randomised_model(net, images):
    """One image is misclassified in 3 of 10 passes, another in 7."""
    calls = iter(range(10**6))

    def random(z):
        k = next(calls) % 10
        wrong = torch.tensor([k < 3, k < 7])
        return torch.stack([torch.where(wrong, -1.0, 1.0), torch.zeros(2)], 1)

    answer = Judge(random, passes=10)(images[:2], torch.tensor([0, 0]))
    assert answer.broken.tolist() == [False, True]
    assert answer.predictions.tolist() == [0, 1]
