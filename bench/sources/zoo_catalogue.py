"""How entries of RobustBench's zoo were trained, where that is published; as data, with sources.

An entry is `<data set>/<threat>/<id>`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema import AwpConfig, Objective


@dataclass(frozen=True)
class Training:
    """How an entry's network was trained, as far as it is published."""

    objective: Objective
    awp: AwpConfig
    source: str  # of the method and of gamma
    extra_data: str = ""


# The leaderboard names the paper (arXiv 2004.05884) and not the method: that is the one whose clean and
# robust accuracy in the authors' table (csdongxian/AWP@a7acf5d, README) are those of the entry.
TRAINED = {
    "cifar10/Linf/Wu2020Adversarial": Training(
        "trades", AwpConfig(gamma=0.005, warm_up=10),
        "TRADES-AWP by its numbers; gamma and warm-up: default of trades_AWP/train_trades_cifar.py",
    ),
    "cifar10/L2/Wu2020Adversarial": Training(
        "trades", AwpConfig(gamma=0.005, warm_up=10),
        "TRADES-AWP by its numbers; gamma and warm-up: default of trades_AWP/train_trades_cifar.py",
    ),
    "cifar100/Linf/Wu2020Adversarial": Training(
        "at", AwpConfig(gamma=0.01),
        "AT-AWP by its numbers; gamma: default of AT_AWP/train_cifar10.py",
    ),
    "cifar10/Linf/Wu2020Adversarial_extra": Training(
        "rst", AwpConfig(gamma=0.005),
        "RST-AWP by its numbers; gamma: as recalled from the paper, the code is not published",
        "500,000 pseudo-labelled images of 80 Million Tiny Images (arXiv 1905.13736)",
    ),
}  # fmt: skip
