"""Grids that were tried on validation images before settings were drawn: AWP, and best-vanilla.

For AWP: gamma, warm-up and the budget. For the control best-vanilla: weight decay, averaging and
early stopping, as many settings as AWP had. The presets are what the lists of these grids say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from awp_train.presets import find
from awp_train.recipes import best_vanilla, with_awp
from bench.schema import TrainConfig

Setting = tuple[Any, ...]  # a value a column of a list
AWP = ("epochs", "gamma", "warm_up")  # gamma 0: the vanilla run
VANILLA = ("weight_decay", "averaging", "early_stopping")  # early stopping after 0 epochs: none


@dataclass(frozen=True)
class Grid:
    """What is tried on a vanilla preset: AWP, or the regularisers of best-vanilla."""

    base: str  # the vanilla preset, itself among the settings
    columns: tuple[str, ...]  # AWP or VANILLA
    settings: tuple[Setting, ...]
    n_validation: int
    seeds: tuple[int, ...]
    budget: int | None = None  # epochs fixed beforehand; None: where the vanilla run is best

    def tried(self) -> Iterator[tuple[Setting, TrainConfig]]:
        for setting in self.settings:
            for seed in self.seeds:
                yield setting, self._config(setting, seed)

    def _config(self, setting: Setting, seed: int) -> TrainConfig:
        """The run of a setting, looked at once, at its end."""
        base = find(self.base).config
        epochs = setting[0] if self.columns == AWP else base.epochs
        vanilla = base.model_copy(
            update={
                "epochs": epochs,
                "seed": seed,
                "n_validation": self.n_validation,
                "log_images": self.n_validation,
                "log_every": epochs,
            }
        )
        if self.columns == AWP:
            _, gamma, warm_up = setting
            return with_awp(vanilla, gamma=gamma, warm_up=warm_up) if gamma else vanilla
        decay, averaging, patience = setting
        if patience:  # a run that may stop early has to look earlier than at its end
            vanilla = vanilla.model_copy(update={"log_every": base.log_every})
        return best_vanilla(
            vanilla, weight_decay=decay, averaging=averaging, early_stopping=patience or None
        )

    def choose(self, rates: dict[Setting, float]) -> Setting:
        """Of best-vanilla the best; of AWP the budget where vanilla is best, then the best of that.

        The budget is the vanilla run's choice, so that the comparison does not lean towards AWP; a
        family whose budget was fixed beforehand says so in its grid.
        """
        allowed = list(rates)
        if self.columns == AWP:
            epochs = self.budget
            if epochs is None:
                epochs = max((k for k in rates if k[1] == 0), key=rates.__getitem__)[0]
            allowed = [k for k in rates if k[0] == epochs and k[1] > 0]
        return max(allowed, key=rates.__getitem__)

    def edges(self, setting: Setting) -> tuple[str, ...]:
        """A grid has no space whose edge its choice could lie at."""
        return ()


def _awp(
    epochs: tuple[int, ...], gammas: tuple[float, ...], shares: tuple[float, ...]
) -> tuple[Setting, ...]:
    """Vanilla and every gamma with every warm-up, a share of the epochs, at every budget."""
    return tuple(
        setting
        for e in epochs
        for setting in (
            (e, 0.0, 0),
            *((e, g, round(share * e)) for g in gammas for share in shares),
        )
    )


_GAMMAS, _THIRD, _SEEDS = (0.005, 0.01, 0.02), (1 / 3,), (100, 101)
_REGULARISERS: tuple[Setting, ...] = (
    (5e-4, "none", 0), (5e-4, "ema", 0), (2e-3, "none", 0), (2e-3, "ema", 0), (5e-3, "none", 0),
    (5e-3, "ema", 0), (2e-3, "ema", 20),
)  # fmt: skip

GRIDS: dict[str, Grid] = {
    "digits": Grid(
        "digits-at", AWP, _awp((60, 100), (0.005, 0.01, 0.02, 0.04), (1 / 6, 1 / 3)), 597,
        (100, 101, 102),
    ),
    "digits-trades": Grid("digits-trades", AWP, _awp((100,), _GAMMAS, _THIRD), 597, _SEEDS),
    "digits-mart": Grid("digits-mart", AWP, _awp((100,), _GAMMAS, _THIRD), 597, _SEEDS),
    # What is not held out is pseudo-labelled: more validation images would leave other extra ones.
    "digits-rst": Grid("digits-rst", AWP, _awp((50,), _GAMMAS, _THIRD), 200, _SEEDS),
    "digits-pretrain": Grid("digits-pretrain", AWP, _awp((50,), _GAMMAS, _THIRD), 297, _SEEDS),
    # Besides vanilla as many as AWP tried at the budget of the presets: 4 gammas, 2 warm-ups.
    "digits-best-vanilla": Grid(
        "digits-at", VANILLA, (*_REGULARISERS, (1e-2, "none", 0), (5e-4, "none", 20)), 597,
        (100, 101, 102),
    ),
    # 80 epochs were fixed beforehand, for a vanilla run that overfits; 40 are tried beside them.
    "fashion_mnist-subset": Grid(
        "fashion_mnist-subset-at", AWP, _awp((40, 80), (0.01, 0.02, 0.03), (1 / 10, 1 / 6)), 1000,
        _SEEDS, budget=80,
    ),
    # 3 gammas, 2 warm-ups.
    "fashion_mnist-subset-best-vanilla": Grid(
        "fashion_mnist-subset-at", VANILLA, _REGULARISERS, 1000, _SEEDS
    ),
}  # fmt: skip
