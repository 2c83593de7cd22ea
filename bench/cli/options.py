"""What several commands take, and what is refused before anything is loaded.

Nothing here loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.catalogue import ARCHITECTURES, DATASETS, OBJECTIVES, dataset_info, unknown_name
from bench.cli.parsing import Group, Option
from bench.protocols import ONLY, PROTOCOL_NAMES
from bench.schema import AwpConfig, InvalidInput, ThreatModel

# ---------------------------------------------------------------- what is refused at once


def known_protocol(name: str) -> None:
    if not name.startswith(ONLY) and name not in PROTOCOL_NAMES:
        raise unknown_name("protocol", name, PROTOCOL_NAMES)


def known_protocols(names: Sequence[str]) -> None:
    for name in names:
        known_protocol(name)


def known_dataset(name: str) -> None:
    if ":" not in name:
        dataset_info(name)


def understood(threat: str) -> None:
    asked = ThreatModel.asked(threat)
    if str(asked) != threat.strip().lower():
        print(f"the threat {threat} is taken as {asked}", file=sys.stderr)


def above_zero(flag: str) -> Callable[[float], None]:
    def check(value: float) -> None:
        if not value > 0:
            raise InvalidInput(f"{flag} must be above 0, got {value:g}")

    return check


def at_least(flag: str, least: int) -> Callable[[int], None]:
    def check(value: int) -> None:
        if value < least:
            raise InvalidInput(f"{flag} must be at least {least}, got {value}")

    return check


def odd_points(points: int) -> None:
    from bench.landscape import record

    record.alphas_of(points)


def steps_of_pgd(attack: str) -> None:
    from bench.landscape import record

    record.steps_of(attack)


def measures(text: str) -> None:
    from bench.landscape import rises

    rises.names(text)


def there(path: Path) -> None:
    if not path.exists():
        raise InvalidInput(f"nothing is at {path}")


def zoo_folder(path: Path) -> None:
    if path != ZOO_DEFAULT and not path.is_dir():
        raise InvalidInput(
            f"no folder is at {path}: expected one with weights of RobustBench's models "
            f"(default: {ZOO_DEFAULT})"
        )


def own_file(model: str) -> None:
    file, _, function = model.rpartition(":")
    if file and function and not Path(file).is_file():
        raise InvalidInput(f"--model {model}: no file at {file}")


# ---------------------------------------------------------------- how options are written


def option(
    *flags: str, check: Callable[[Any], object] | None = None, **settings: Any
) -> Option:  # fmt: skip
    return Option(flags, settings, check=check)


def whole(flag: str, least: int = 1, **settings: Any) -> Option:
    return option(flag, type=int, check=at_least(flag, least), **settings)


def model(flag: str, **settings: Any) -> Option:
    return Option((flag,), settings, model=True)


def folder(flag: str, default: str, help: str | None = None) -> Option:
    return option(flag, type=Path, default=Path(default), metavar="DIR", help=help)


# ---------------------------------------------------------------- what several commands take

WHERE = "a name, or parquet:, arrays: or imagefolder:FOLDER; default: what it was trained on"
DATASET = option("--dataset", metavar="D", help=WHERE, check=known_dataset)
DATASET_NAME = option("--dataset-name", metavar="N", help="how records call a folder's data")
SPLIT = option("--split", default="test", help='such as "test[1000:2000]"')
THREAT = option("--threat", metavar="linf:8/255", help="default: the data set's", check=understood)
N = whole("--n", help="the first n images; default all, on a CPU 1,000")
DEVICE = option("--device", default="auto")
SEED = whole("--seed", 0, default=0)
BATCH = whole("--batch", help="rows (image x target) in the model at once")
WORKERS = whole("--workers", help="processes; default: as many as cores")
SECONDS = option(
    "--max-seconds", type=float, metavar="T", check=above_zero("--max-seconds"),
    help="stop after so long; the same command goes on from what is finished",
)  # fmt: skip
PASS = option(
    "--pass-seconds", type=float, metavar="S", check=above_zero("--pass-seconds"),
    help="stop a model of which one pass takes longer; default: 300, more for a slow one",
)  # fmt: skip
YES = option("--yes", action="store_true", help="do not ask before a long job")
JSON = option("--json", action="store_true", help="one JSON document on stdout")
PROTOCOLS = f"{', '.join(PROTOCOL_NAMES)}, or {ONLY}ATTACK: one attack alone"
ZOO_DEFAULT = Path("var/zoo")
ZOO = folder("--zoo", str(ZOO_DEFAULT), "where the weights of RobustBench's models are")
RESULTS = folder("--results", "results")
CHECKPOINTS = folder("--checkpoints", "var/checkpoints")
INTAKE = option(
    "--intake", type=Path, metavar="FILE.toml", check=there,
    help="settings of a host of submissions; default: AWP_INTAKE, else var/intake and the like",
)  # fmt: skip
FOLDERS = model("checkpoint", nargs="+", type=Path, help="checkpoint folders")

# Of commands that take a model in a file of the user's own.
OWN_MODEL = (
    option(
        "--model", metavar="FILE.py:FUNCTION", check=own_file,
        help="measure what FUNCTION() of your own file returns, a torch Module (put in eval "
        "mode) or a callable from images in [0, 1] to logits; needs --dataset. This runs the "
        "file: only your own, never one somebody sent; submissions are weights (bench submit)",
    ),
    option(
        "--name", metavar="N", help="with --model: what records call it; default: file-function"
    ),
)  # fmt: skip

# Of every command that measures; before it stands the option that chooses the images.
MEASURING = (
    DATASET_NAME, SPLIT, THREAT,
    option(
        "--protocol", default="standard", metavar="P", help=PROTOCOLS, check=known_protocol
    ),
    N,
    option(
        "--engine", choices=("ours", "reference"), default="ours",
        help="whose AutoAttack: ours, or the published implementation (slower)",
    ),
    option(
        "--precision", choices=("float32", "mixed"), default="float32",
        help="mixed: search in bfloat16 where the model bears it; float32 judges either way",
    ),
    option(
        "--audit", choices=("sample", "all", "none"), default="sample",
        help="of an audited column: how many standing images AutoAttack attacks too; all: it is "
        "measured alone as well",
    ),
    DEVICE, WORKERS, BATCH, SECONDS, PASS, SEED, folder("--out", "results"),
    folder("--parts", "var/work", "where finished parts are kept until the record is made"),
    option("--again", action="store_true", help="measure even where a record exists"),
    YES, JSON,
)  # fmt: skip

ARCH = option("--arch", required=True, metavar="A", help=", ".join(ARCHITECTURES))
FOUND_ARCH = option("--arch", metavar="A", help=ARCH.settings["help"])

# Of a landscape or a flatness, on the images that a card names.
LANDSCAPE = (
    whole("--n", help="at most so many images of each part; default 1,000"),
    SPLIT,
    option("--dataset", metavar="D", help="where images of one's own lie: imagefolder:FOLDER"),
    THREAT, DEVICE, WORKERS, SEED, YES, JSON,
)  # fmt: skip

# A state dict of somebody else, and what its submitter states: nothing here can check it.
STATE_DICT = (
    option("file", type=Path, metavar="FILE", check=there, help=".pt, .pth or .safetensors"),
    option(
        "--weights", metavar="KEY",
        help="which of several sets of weights in the file: its key, or ema for the averaged one",
    ),
    ARCH,
    option("--arch-arg", action="append", default=[], metavar="k=v"),
    option(
        "--dataset", required=True, metavar="D", help=", ".join(DATASETS), check=known_dataset
    ),
    option("--name", required=True, metavar="N"),
    option("--mean", metavar="a,b,c", help="input normalisation, a value a channel"),
    option("--std", metavar="a,b,c"),
    Group(
        (
            option("--objective", choices=tuple(OBJECTIVES)),
            option(
                "--awp", metavar="gamma=0.01,warm_up=0",
                help=f"how weights were perturbed ({', '.join(AwpConfig.model_fields)}), or none",
            ),
            option("--twin", metavar="NAME", help="the model trained alike but without AWP"),
            option("--trained-against", metavar="linf:8/255"),
            whole("--epochs", help="length of the run"),
            option("--extra-data", metavar="TEXT", help="images besides the data set"),
            option("--authors"), option("--link"), option("--licence"),
            option(
                "--figure", action="append", default=[], dest="figures",
                metavar="proven=9420/10000,threat=linf:0.1,source=TEXT",
                help="a number that others state, never measured here: clean, attacked (what an attack "
                "left: robust at most) or proven (robust at least) = 9420/10000, 94.2%% or 0.942; "
                "threat=, attack=, n=, dataset= (default: --dataset) and images= (the sha256 that "
                "records name them by); source= comes last. Again for each figure",
            ),
            option(
                "--no-copy", action="store_true",
                help="the weights are not yours to hand on: records name --link and the sha256 of "
                "FILE, and no copy of the weights lies beside them",
            ),
        ),
        "stated by you",
        "shown as self-declared; what is left out is shown as not stated",
    ),
    CHECKPOINTS,
)  # fmt: skip

# Of a submission that is queued: what a form holds besides.
WATCHED = Group(
    (
        option(
            "--watch", action="store_true",
            help="queue it here, work it to its end and tell how far it is; Ctrl-C leaves the ticket, "
            "and the same call goes on with it. Without --arch it is found",
        ),
        INTAKE,
        option(
            "--server", metavar="URL",
            help="hand it to the server of a board; with --watch the call tells how far it is there",
        ),
        option("--token", help="of that server, where it asks for one"),
        option("--secret", help="of an earlier ticket of this file, to correct what was said"),
        option("--claimed", type=float, metavar="0.84", help="clean accuracy it should have"),
        option("--claimed-robust", type=float, metavar="0.52", help="robust accuracy it should have"),
        option("--training-images", metavar="TEXT", help="what it was trained on"),
        option("--paper", metavar="TEXT"),
        option("--contact", metavar="TEXT", help="for the operator alone, in no record"),
        option(
            "--hashes-only", action="store_true",
            help="publish neither weights nor evidence, but their sha256",
        ),
    ),
    "with --watch",
)  # fmt: skip

# ---------------------------------------------------------------- the commands

# Headings of the help: what a person wants who calls it.
