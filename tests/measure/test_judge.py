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
