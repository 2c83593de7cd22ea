"""What cannot be trained: every impossible combination of settings, refused before training.

Each function raises InvalidInput with the reason and what to do about it.
"""

from __future__ import annotations

from awp_train.recipes import DECIDED, fitted_arguments
from bench.catalogue import architecture_arguments, dataset_info
from bench.schema import AwpConfig, ExtraData, InvalidInput, TrainConfig

CHOOSING = 100  # validation images from which on the best epoch is more than luck
_ON_CLEAN_OUTPUT = ("trades", "mart", "rst")
_WITH_EXTRA = ("rst", "at")


def check(config: TrainConfig) -> None:
    """Raises InvalidInput with the reason where a configuration cannot give a sensible run."""
    check_settings(config)
    if config.objective == "rst" and config.extra is None:
        raise InvalidInput(
            "rst learns from pseudo-labelled images beside the data set: give --extra FILE "
            "(python -m awp_train pseudo-label makes one), or --objective trades"
        )
    if config.objective == "pretrain" and config.start is None:
        raise InvalidInput(
            "pretrain goes on from a trained network: give --start FOLDER, a checkpoint of "
            f"{config.arch}, or --objective at"
        )


def check_settings(config: TrainConfig) -> None:
    """As check, for a configuration whose extra images and starting point are not named yet."""
    _check_network(config)
    _check_images(config)
    _check_attack(config)
    _check_schedule(config)
    _check_regularisers(config)
    _check_selection(config)
    _check_machine(config)
    if config.awp is not None:
        _check_awp(config, config.awp)


def remarks(config: TrainConfig) -> list[str]:
    """What is possible but should be known before a run starts, a sentence each."""
    n = config.n_validation
    if n == 0:
        return ["no validation images: there is no best epoch, only the last one"]
    if n < CHOOSING:
        return [
            f"{n} validation images choose the best epoch: one image is {100 / n:.1f} points, "
            f"so that choice is mostly luck below {CHOOSING}"
        ]
    return []


# ---------------------------------------------------------------- network and images


def _check_network(config: TrainConfig) -> None:
    fitting = fitted_arguments(config.arch, config.dataset)
    given = architecture_arguments(config.arch, config.arch_args)
    for key in DECIDED:
        if given.get(key) != fitting.get(key):
            raise InvalidInput(
                f"{config.arch}: {key} is {given[key]}, but {config.dataset} has {fitting[key]}"
            )
    channels = dataset_info(config.dataset).channels
    if (config.mean is None) != (config.std is None) or any(
        len(v) != channels for v in (config.mean, config.std) if v is not None
    ):
        raise InvalidInput(f"mean and std go together, {channels} values for {config.dataset}")
    if config.start is not None and config.objective != "pretrain":
        raise InvalidInput(
            f"--start belongs to --objective pretrain; {config.objective} starts from weights "
            "that the seed draws"
        )


def _check_images(config: TrainConfig) -> None:
    info = dataset_info(config.dataset)
    n_train = config.n_train if config.n_train is not None else info.n_train - config.n_validation
    if n_train < 1 or n_train + config.n_validation > info.n_train:
        raise InvalidInput(
            f"{config.dataset} has {info.n_train} training images; n_train {n_train} and "
            f"n_validation {config.n_validation} do not fit together"
        )
    labelled = config.batch - (round(config.extra.fraction * config.batch) if config.extra else 0)
    if config.extra is not None:
        _check_extra(config, config.extra, labelled)
    if n_train < labelled:
        raise InvalidInput(
            f"n_train is {n_train}, less than one batch of {labelled}; lower --batch"
        )


def _check_extra(config: TrainConfig, extra: ExtraData, labelled: int) -> None:
    if config.objective not in _WITH_EXTRA:
        raise InvalidInput(
            f"--extra belongs to --objective {' or '.join(_WITH_EXTRA)}, not {config.objective}"
        )
    if not 0 < labelled < config.batch:
        raise InvalidInput(
            f"a batch of {config.batch} with a fraction of {extra.fraction:g} extra images has "
            f"{labelled} labelled ones; change --extra.fraction or raise --batch"
        )


# ---------------------------------------------------------------- how it is trained


def _check_attack(config: TrainConfig) -> None:
    if config.threat is None:
        raise InvalidInput(
            "no threat: training, or the validation of a natural run, attacks with it. "
            f"Give --threat {dataset_info(config.dataset).default_threat}"
        )
    if config.threat.norm == "l1":
        raise InvalidInput("PGD trains against linf or l2, not against l1")
    if config.craft_folded and config.craft_mode != "eval":
        raise InvalidInput(
            "BatchNorm can only be folded where it stands still: --craft_mode eval, or "
            "--craft_folded false"
        )


def _check_schedule(config: TrainConfig) -> None:
    if not all(0 < m < 1 for m in config.milestones):
        raise InvalidInput(
            f"milestones are fractions of training between 0 and 1, got {config.milestones}"
        )
    if config.nesterov and config.momentum == 0:
        raise InvalidInput("--nesterov needs --momentum above 0")


def _check_regularisers(config: TrainConfig) -> None:
    if config.mixup and config.objective in _ON_CLEAN_OUTPUT:
        raise InvalidInput(
            f"mixup mixes labels, and {config.objective} is defined for one label an image: "
            "--mixup 0, or --objective at"
        )
    if config.mixup and config.extra is not None:
        raise InvalidInput("mixup would mix labels with pseudo-labels: --mixup 0")
    if config.mixup and config.awp is not None:
        raise InvalidInput(
            "mixup with AWP is not defined (the AWP paper's code refuses it too): "
            "--mixup 0 or --awp none"
        )
    side = dataset_info(config.dataset).image_size
    if config.cutout >= side:
        raise InvalidInput(f"cutout of {config.cutout} pixels leaves nothing of {side}x{side}")
    if config.recipe in ("equal-compute", "best-vanilla") and config.awp is not None:
        raise InvalidInput(f"the control {config.recipe} is a run without AWP: --awp none")


def _check_selection(config: TrainConfig) -> None:
    patience, n = config.early_stopping, config.n_validation
    if config.recipe == "best-vanilla" and n < CHOOSING:
        raise InvalidInput(
            f"best-vanilla is chosen on validation images and has {n}; "
            f"give it at least {CHOOSING}: --n_validation {CHOOSING}"
        )
    if patience is None:
        return
    if n < CHOOSING:
        raise InvalidInput(
            f"early stopping waits for a better validation and has {n} images for that; "
            f"give it at least {CHOOSING} (--n_validation), or --early_stopping none"
        )
    if patience < config.log_every:
        raise InvalidInput(
            f"early stopping after {patience} epochs, but validation comes every "
            f"{config.log_every}: raise --early_stopping or lower --log_every"
        )
    if config.averaging == "swa":
        raise InvalidInput(
            "early stopping and swa contradict each other: an average over the whole end of "
            "training needs that end. --averaging ema, or --early_stopping none"
        )


def _check_machine(config: TrainConfig) -> None:
    if config.batch % config.devices or config.batch // config.devices < 2:
        raise InvalidInput(
            f"a batch of {config.batch} does not divide among {config.devices} devices, each with "
            "2 images or more; change --batch"
        )
    if config.compiled and config.devices > 1:
        raise InvalidInput("compiled passes run on one device: --devices 1, or --compiled false")


def _check_awp(config: TrainConfig, awp: AwpConfig) -> None:
    if config.objective == "natural":
        raise InvalidInput(
            "natural training has no AWP variant here: --awp none, or --objective at"
        )
    if awp.warm_up >= config.epochs:
        raise InvalidInput(
            f"AWP starts after {awp.warm_up} epochs of warm-up, but the run has {config.epochs}: "
            "lower --awp.warm_up or raise --epochs"
        )
    if awp.direction == "random" and awp.steps > 1:
        raise InvalidInput("a random direction takes no ascent steps: --awp.steps 1")
    if awp.direction == "random" and awp.alternations > 1:
        raise InvalidInput(
            "a random direction does not answer to the images, so nothing alternates: "
            "--awp.alternations 1"
        )
    both = sorted(set(awp.include) & set(awp.exclude))
    if both:
        raise InvalidInput(f"--awp.include and --awp.exclude both name {', '.join(both)}")
