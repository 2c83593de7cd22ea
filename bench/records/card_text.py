"""What a model's card says, in words: what is unknown is said to be, what is only claimed is marked."""

from __future__ import annotations

from bench.catalogue import training_images
from bench.published import NOT_STATED
from bench.schema import ModelCard, TrainConfig


def awp_text(card: ModelCard) -> str:
    """Whether the weights were perturbed while training: yes, no, random or unknown."""
    if card.uses_awp is None:
        return "unknown"
    return "yes" if card.uses_awp else "no" if card.awp is None else "random"


SELF_DECLARED = "self-declared"  # by who submitted the weights; nothing here shows it


def marked(card: ModelCard, text: str, *fields: str) -> str:
    """`AT-AWP (self-declared)`: what fields of a card say, marked where only its submitter says it."""
    if not text or not set(fields) & set(card.declared):
        return text
    return f"{text} ({SELF_DECLARED})"


def method_text(card: ModelCard) -> str:
    """The method, marked where it rests on the word of a submitter."""
    return marked(card, card.method, "objective", "awp")


def images_text(train: TrainConfig) -> str:
    """`all training images`, `200 training images`, `5,085 of cifar10's training images`.

    Those of a subset that is named by its places are counted with the ones held out of it.
    """
    if train.n_train is not None:
        return f"{train.n_train:,} training images"
    if train.train_indices is None:
        return "all training images"
    return f"{training_images(train):,} of {train.dataset}'s training images"


def trained_on(card: ModelCard) -> str:
    """The data set, and how many images and which of them where a run learnt from fewer than all."""
    train = card.train
    if train is None or (train.n_train is None and train.train_indices is None):
        return card.dataset
    if train.n_train is None:
        return f"{images_text(train)} ({train.train_indices})"
    drawn = f", drawn from {train.train_indices}" if train.train_indices is not None else ""
    return f"{images_text(train)} of {card.dataset}{drawn}"


def threat_text(card: ModelCard) -> str:
    """What a model was trained against, as far as its card says."""
    if card.threat is not None:
        return marked(card, str(card.threat), "threat")
    ours = card.objective is not None and not card.declared
    return "nothing" if ours or card.objective in ("natural", "pretrain") else NOT_STATED


def perturbation_text(card: ModelCard) -> str:
    """`adversarial, gamma 0.01, warm-up 10 epochs, 1 step`; of a submitter's no more than was said."""
    awp = card.awp
    if awp is None:
        text = NOT_STATED if card.uses_awp is None else "none"
        return marked(card, text, "awp")
    parts = {
        "gamma": f"gamma {awp.gamma:g}",
        "warm_up": f"warm-up {awp.warm_up} epochs",
        "steps": f"{awp.steps} step{'' if awp.steps == 1 else 's'}",
    }
    said = [text for name, text in parts.items() if card.states(f"awp.{name}")]
    return marked(card, ", ".join([awp.direction, *said]), "awp")


def declared_note(card: ModelCard) -> str:
    """`Self-declared: authors, objective`; empty where nothing is."""
    fields = [field for field in card.declared if "." not in field]
    return f"{SELF_DECLARED.capitalize()}: {', '.join(fields)}" if fields else ""


def kept_text(card: ModelCard) -> str:
    """`best (87 of 100)`: which epoch's weights these are."""
    kept = {"validation": "best", "last": "last", None: "unknown"}[card.selected_on]
    if card.epoch_kept is None:
        return kept
    of = f" of {card.epochs}" if card.epochs is not None else ""
    return f"{kept} ({card.epoch_kept}{of})"
