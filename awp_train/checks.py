"""What cannot be trained: every impossible combination of settings, refused before training.

Each rule says what is wrong, and the reason with what to do about it.
"""

from __future__ import annotations

from bench.catalogue import (
    DECIDED,
    OBJECTIVES,
    architecture_arguments,
    check_pixels,
    dataset_info,
    fitted_arguments,
    training_images,
)
from bench.schema import InvalidInput, TrainConfig
from bench.schema.ranges import ranges_of

CHOOSING = 100  # validation images from which on the best epoch is more than luck

Rules = list[tuple[bool, str]]  # whether a configuration breaks it, and the reason


def check(config: TrainConfig) -> None:
    """Raises InvalidInput with the reason where a configuration cannot give a sensible run."""
    check_settings(config)
    objective = OBJECTIVES[config.objective]
    _refuse(
        [
            (
                objective.unlabelled > 0 and config.extra is None,
                f"{config.objective} learns from pseudo-labelled images beside the data set: give "
                "--extra FILE (python -m awp_train pseudo-label makes one), or --objective trades",
            ),
            (
                objective.starts and config.start is None,
                f"{config.objective} goes on from a trained network: give --start FOLDER, a "
                f"checkpoint of {config.arch}, or --objective at",
            ),
        ]
    )


def check_settings(config: TrainConfig) -> None:
    """As check, for a configuration whose extra images and starting point are not named yet."""
    try:
        check_pixels(config.mean, config.std)
    except InvalidInput as error:
        raise InvalidInput(f"--{str(error).partition(' ')[0]}: {error}") from None
    for rules in (_network, _images, _how, _selection, _awp):
        _refuse(rules(config))


def _refuse(rules: Rules) -> None:
    for broken, reason in rules:
        if broken:
            raise InvalidInput(reason)


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


def _network(config: TrainConfig) -> Rules:
    fitting = fitted_arguments(config.arch, config.dataset, config.own)
    given = architecture_arguments(config.arch, config.arch_args)
    channels = dataset_info(config.dataset, config.own).channels
    lengths = [None if v is None else len(v) for v in (config.mean, config.std)]
    return [
        *(
            (
                given[key] != value,
                f"{config.arch}: {key} is {given[key]}, but {config.dataset} has {value}",
            )
            for key, value in fitting.items()
            if key in DECIDED
        ),
        (
            lengths not in ([None, None], [channels, channels]),
            f"mean and std go together, {channels} values for {config.dataset}",
        ),
        (
            config.start is not None and not OBJECTIVES[config.objective].starts,
            f"--start belongs to --objective pretrain; {config.objective} starts from weights "
            "that the seed draws",
        ),
    ]


def _images(config: TrainConfig) -> Rules:
    info, extra = dataset_info(config.dataset, config.own), config.extra
    there, indices = training_images(config), config.train_indices
    n_train = config.n_train if config.n_train is not None else there - config.n_validation
    fraction = extra.fraction if extra else 0
    labelled = config.batch - round(fraction * config.batch)
    takers = " or ".join(k for k, o in reversed(OBJECTIVES.items()) if o.extra)
    return [
        (
            indices is not None and ranges_of(indices)[-1][1] > info.n_train,
            f"--train_indices {indices} leaves the {info.n_train} training images of {config.dataset}",
        ),
        (
            n_train < 1 or n_train + config.n_validation > there,
            f"{config.dataset} has {there} training images{' in --train_indices' if indices else ''}; "
            f"n_train {n_train} and n_validation {config.n_validation} do not fit together",
        ),
        (
            extra is not None and not OBJECTIVES[config.objective].extra,
            f"--extra belongs to --objective {takers}, not {config.objective}",
        ),
        (
            extra is not None and not 0 < labelled < config.batch,
            f"a batch of {config.batch} with a fraction of {fraction:g} extra images has "
            f"{labelled} labelled ones; change --extra.fraction or raise --batch",
        ),
        (
            config.log_test_images > 0 and not info.n_test,
            f"{config.dataset} has no test images: --log_test_images 0",
        ),
        (
            n_train < labelled,
            f"n_train is {n_train}, less than one batch of {labelled}; lower --batch",
        ),
    ]


def _how(config: TrainConfig) -> Rules:
    info, threat = dataset_info(config.dataset, config.own), config.threat
    return [
        (
            threat is None,
            "no threat: training, or the validation of a natural run, attacks with it. "
            f"Give --threat {info.default_threat}",
        ),
        (
            threat is not None and threat.norm == "l1",
            "PGD trains against linf or l2, not against l1",
        ),
        (
            config.craft_folded and config.craft_mode != "eval",
            "BatchNorm can only be folded where it stands still: --craft_mode eval, or "
            "--craft_folded false",
        ),
        (
            not all(0 < m < 1 for m in config.milestones),
            f"milestones are fractions of training between 0 and 1, got {config.milestones}",
        ),
        (config.nesterov and config.momentum == 0, "--nesterov needs --momentum above 0"),
        (
            bool(config.mixup) and not OBJECTIVES[config.objective].mixes,
            f"mixup mixes labels, and {config.objective} is defined for one label an image: "
            "--mixup 0, or --objective at",
        ),
        (
            bool(config.mixup) and config.extra is not None,
            "mixup would mix labels with pseudo-labels: --mixup 0",
        ),
        (
            bool(config.mixup) and config.awp is not None,
            "mixup with AWP is not defined (the AWP paper's code refuses it too): "
            "--mixup 0 or --awp none",
        ),
        (
            config.cutout >= info.image_size,
            f"cutout of {config.cutout} pixels leaves nothing of {info.image_size}x{info.image_size}",
        ),
        (
            config.recipe in ("equal-compute", "best-vanilla") and config.awp is not None,
            f"the control {config.recipe} is a run without AWP: --awp none",
        ),
        (
            config.batch % config.devices != 0 or config.batch // config.devices < 2,
            f"a batch of {config.batch} does not divide among {config.devices} devices, each with "
            "2 images or more; change --batch",
        ),
        (
            config.compiled and config.devices > 1,
            "compiled passes run on one device: --devices 1, or --compiled false",
        ),
    ]


def _selection(config: TrainConfig) -> Rules:
    n, patience = config.n_validation, config.early_stopping
    return [
        (
            config.recipe == "best-vanilla" and n < CHOOSING,
            f"best-vanilla is chosen on validation images and has {n}; "
            f"give it at least {CHOOSING}: --n_validation {CHOOSING}",
        ),
        (
            patience is not None and n < CHOOSING,
            f"early stopping waits for a better validation and has {n} images for that; "
            f"give it at least {CHOOSING} (--n_validation), or --early_stopping none",
        ),
        (
            patience is not None and patience < config.log_every,
            f"early stopping after {patience} epochs, but validation comes every "
            f"{config.log_every}: raise --early_stopping or lower --log_every",
        ),
        (
            patience is not None and config.averaging == "swa",
            "early stopping and swa contradict each other: an average over the whole end of "
            "training needs that end. --averaging ema, or --early_stopping none",
        ),
        *_averaging(config),
    ]


def _averaging(config: TrainConfig) -> Rules:
    horizon, decay = config.averaging_horizon, config.averaging_decay
    if horizon is None:
        return []
    return [
        (
            config.averaging != "ema",
            f"--averaging_horizon {horizon:g} belongs to --averaging ema, not {config.averaging}",
        ),
        (
            decay != TrainConfig.model_fields["averaging_decay"].default,
            f"--averaging_horizon {horizon:g} and --averaging_decay {decay:g} both say how long an "
            "average remembers: give one of them",
        ),
        (
            horizon > config.epochs,
            f"an average over {horizon:g} epochs remembers the start of a run of {config.epochs}: "
            "lower --averaging_horizon",
        ),
    ]


def _awp(config: TrainConfig) -> Rules:
    awp = config.awp
    if awp is None:
        return []
    both = sorted(set(awp.include) & set(awp.exclude))
    return [
        (
            OBJECTIVES[config.objective].craft is None,
            f"{config.objective} training has no AWP variant here: --awp none, or --objective at",
        ),
        (
            awp.warm_up >= config.epochs,
            f"AWP starts after {awp.warm_up} epochs of warm-up, but the run has {config.epochs}: "
            "lower --awp.warm_up or raise --epochs",
        ),
        (
            awp.direction == "random" and awp.steps > 1,
            "a random direction takes no ascent steps: --awp.steps 1",
        ),
        (
            awp.direction == "random" and awp.alternations > 1,
            "a random direction does not answer to the images, so nothing alternates: "
            "--awp.alternations 1",
        ),
        (
            awp.direction == "random" and awp.threshold is not None,
            f"a random direction looks at no example, so --awp.threshold {awp.threshold} chooses "
            "none: --awp.threshold none, or --awp.direction adversarial",
        ),
        (bool(both), f"--awp.include and --awp.exclude both name {', '.join(both)}"),
    ]
