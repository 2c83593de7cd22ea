"""COMMANDS: what every command is called, what it takes and which function answers it, as data.

Nothing here loads torch: `--help` and wrong calls answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.catalogue import ARCHITECTURES, DATASETS, OBJECTIVES, dataset_info, unknown_name
from bench.cli.arguments import whole_numbers
from bench.cli.parsing import Command, Group, Option
from bench.exports.formats import FORMATS
from bench.measure.share import Share
from bench.protocols import ONLY, PROTOCOL_NAMES
from bench.schema import AwpConfig, InvalidInput, ThreatModel
from bench.schema.threat import PUBLISHED_NORMS

# ---------------------------------------------------------------- what is refused at once


def _known_protocol(name: str) -> None:
    if not name.startswith(ONLY) and name not in PROTOCOL_NAMES:
        raise unknown_name("protocol", name, PROTOCOL_NAMES)


def _known_protocols(names: Sequence[str]) -> None:
    for name in names:
        _known_protocol(name)


def _known_dataset(name: str) -> None:
    if ":" not in name:
        dataset_info(name)


def _understood(threat: str) -> None:
    asked = ThreatModel.asked(threat)
    if str(asked) != threat.strip().lower():
        print(f"the threat {threat} is taken as {asked}", file=sys.stderr)


def _above_zero(flag: str) -> Callable[[float], None]:
    def check(value: float) -> None:
        if not value > 0:
            raise InvalidInput(f"{flag} must be above 0, got {value:g}")

    return check


def _at_least(flag: str, least: int) -> Callable[[int], None]:
    def check(value: int) -> None:
        if value < least:
            raise InvalidInput(f"{flag} must be at least {least}, got {value}")

    return check


def _odd_points(points: int) -> None:
    from bench.landscape import record

    record.alphas_of(points)


def _steps_of_pgd(attack: str) -> None:
    from bench.landscape import record

    record.steps_of(attack)


def _measures(text: str) -> None:
    from bench.landscape import rises

    rises.names(text)


def _there(path: Path) -> None:
    if not path.exists():
        raise InvalidInput(f"nothing is at {path}")


def _zoo_folder(path: Path) -> None:
    if path != _ZOO_DEFAULT and not path.is_dir():
        raise InvalidInput(
            f"no folder is at {path}: expected one with weights of RobustBench's models "
            f"(default: {_ZOO_DEFAULT})"
        )


def _own_file(model: str) -> None:
    file, _, function = model.rpartition(":")
    if file and function and not Path(file).is_file():
        raise InvalidInput(f"--model {model}: no file at {file}")


# ---------------------------------------------------------------- how options are written


def _option(
    *flags: str, check: Callable[[Any], object] | None = None, **settings: Any
) -> Option:  # fmt: skip
    return Option(flags, settings, check=check)


def _whole(flag: str, least: int = 1, **settings: Any) -> Option:
    return _option(flag, type=int, check=_at_least(flag, least), **settings)


def _model(flag: str, **settings: Any) -> Option:
    return Option((flag,), settings, model=True)


def _folder(flag: str, default: str, help: str | None = None) -> Option:
    return _option(flag, type=Path, default=Path(default), metavar="DIR", help=help)


# ---------------------------------------------------------------- what several commands take

_WHERE = "a name, or parquet:, arrays: or imagefolder:FOLDER; default: what it was trained on"
_DATASET = _option("--dataset", metavar="D", help=_WHERE, check=_known_dataset)
_DATASET_NAME = _option("--dataset-name", metavar="N", help="how records call a folder's data")
_SPLIT = _option("--split", default="test", help='such as "test[1000:2000]"')
_THREAT = _option(
    "--threat", metavar="linf:8/255", help="default: the data set's", check=_understood
)
_N = _whole("--n", help="the first n images; default all, on a CPU 1,000")
_DEVICE = _option("--device", default="auto")
_SEED = _whole("--seed", 0, default=0)
_BATCH = _whole("--batch", help="rows (image x target) in the model at once")
_WORKERS = _whole("--workers", help="processes; default: as many as cores")
_SECONDS = _option(
    "--max-seconds", type=float, metavar="T", check=_above_zero("--max-seconds"),
    help="stop after so long; the same command goes on from what is finished",
)  # fmt: skip
_PASS = _option(
    "--pass-seconds", type=float, metavar="S", check=_above_zero("--pass-seconds"),
    help="stop a model of which one pass takes longer; default: 300, more for a slow one",
)  # fmt: skip
_YES = _option("--yes", action="store_true", help="do not ask before a long job")
_JSON = _option("--json", action="store_true", help="one JSON document on stdout")
_PROTOCOLS = f"{', '.join(PROTOCOL_NAMES)}, or {ONLY}ATTACK: one attack alone"
_ZOO_DEFAULT = Path("var/zoo")
_ZOO = _folder("--zoo", str(_ZOO_DEFAULT), "where the weights of RobustBench's models are")
_RESULTS = _folder("--results", "results")
_CHECKPOINTS = _folder("--checkpoints", "var/checkpoints")
_INTAKE = _option(
    "--intake", type=Path, metavar="FILE.toml", check=_there,
    help="settings of a host of submissions; default: AWP_INTAKE, else var/intake and the like",
)  # fmt: skip
_FOLDERS = _model("checkpoint", nargs="+", type=Path, help="checkpoint folders")

# Of commands that take a model in a file of the user's own.
_OWN_MODEL = (
    _option(
        "--model", metavar="FILE.py:FUNCTION", check=_own_file,
        help="measure what FUNCTION() of your own file returns, a torch Module (put in eval "
        "mode) or a callable from images in [0, 1] to logits; needs --dataset. This runs the "
        "file: only your own, never one somebody sent; submissions are weights (bench submit)",
    ),
    _option(
        "--name", metavar="N", help="with --model: what records call it; default: file-function"
    ),
)  # fmt: skip

# Of every command that measures; before it stands the option that chooses the images.
_MEASURING = (
    _DATASET_NAME, _SPLIT, _THREAT,
    _option(
        "--protocol", default="standard", metavar="P", help=_PROTOCOLS, check=_known_protocol
    ),
    _N,
    _option(
        "--engine", choices=("ours", "reference"), default="ours",
        help="whose AutoAttack: ours, or the published implementation (slower)",
    ),
    _option(
        "--precision", choices=("float32", "mixed"), default="float32",
        help="mixed: search in bfloat16 where the model bears it; float32 judges either way",
    ),
    _option(
        "--audit", choices=("sample", "all", "none"), default="sample",
        help="of an audited column: how many standing images AutoAttack attacks too; all: it is "
        "measured alone as well",
    ),
    _DEVICE, _WORKERS, _BATCH, _SECONDS, _PASS, _SEED, _folder("--out", "results"),
    _folder("--parts", "var/work", "where finished parts are kept until the record is made"),
    _option("--again", action="store_true", help="measure even where a record exists"),
    _YES, _JSON,
)  # fmt: skip

_ARCH = _option("--arch", required=True, metavar="A", help=", ".join(ARCHITECTURES))
_FOUND_ARCH = _option("--arch", metavar="A", help=_ARCH.settings["help"])

# Of a landscape or a flatness, on the images that a card names.
_LANDSCAPE = (
    _whole("--n", help="at most so many images of each part; default 1,000"),
    _SPLIT,
    _option("--dataset", metavar="D", help="where images of one's own lie: imagefolder:FOLDER"),
    _THREAT, _DEVICE, _WORKERS, _SEED, _YES, _JSON,
)  # fmt: skip

# A state dict of somebody else, and what its submitter states: nothing here can check it.
_STATE_DICT = (
    _option("file", type=Path, metavar="FILE", check=_there, help=".pt, .pth or .safetensors"),
    _option(
        "--weights", metavar="KEY",
        help="which of several sets of weights in the file: its key, or ema for the averaged one",
    ),
    _ARCH,
    _option("--arch-arg", action="append", default=[], metavar="k=v"),
    _option(
        "--dataset", required=True, metavar="D", help=", ".join(DATASETS), check=_known_dataset
    ),
    _option("--name", required=True, metavar="N"),
    _option("--mean", metavar="a,b,c", help="input normalisation, a value a channel"),
    _option("--std", metavar="a,b,c"),
    Group(
        (
            _option("--objective", choices=tuple(OBJECTIVES)),
            _option(
                "--awp", metavar="gamma=0.01,warm_up=0",
                help=f"how weights were perturbed ({', '.join(AwpConfig.model_fields)}), or none",
            ),
            _option("--twin", metavar="NAME", help="the model trained alike but without AWP"),
            _option("--trained-against", metavar="linf:8/255"),
            _whole("--epochs", help="length of the run"),
            _option("--extra-data", metavar="TEXT", help="images besides the data set"),
            _option("--authors"), _option("--link"), _option("--licence"),
            _option(
                "--figure", action="append", default=[], dest="figures",
                metavar="proven=9420/10000,threat=linf:0.1,source=TEXT",
                help="a number that others state, never measured here: clean, attacked (what an attack "
                "left: robust at most) or proven (robust at least) = 9420/10000, 94.2%% or 0.942; "
                "threat=, attack=, n=, dataset= (default: --dataset) and images= (the sha256 that "
                "records name them by); source= comes last. Again for each figure",
            ),
            _option(
                "--no-copy", action="store_true",
                help="the weights are not yours to hand on: records name --link and the sha256 of "
                "FILE, and no copy of the weights lies beside them",
            ),
        ),
        "stated by you",
        "shown as self-declared; what is left out is shown as not stated",
    ),
    _CHECKPOINTS,
)  # fmt: skip

# Of a submission that is queued: what a form holds besides.
_WATCHED = Group(
    (
        _option(
            "--watch", action="store_true",
            help="queue it here, work it to its end and tell how far it is; Ctrl-C leaves the ticket, "
            "and the same call goes on with it. Without --arch it is found",
        ),
        _INTAKE,
        _option(
            "--server", metavar="URL",
            help="hand it to the server of a board; with --watch the call tells how far it is there",
        ),
        _option("--token", help="of that server, where it asks for one"),
        _option("--secret", help="of an earlier ticket of this file, to correct what was said"),
        _option("--claimed", type=float, metavar="0.84", help="clean accuracy it should have"),
        _option("--claimed-robust", type=float, metavar="0.52", help="robust accuracy it should have"),
        _option("--training-images", metavar="TEXT", help="what it was trained on"),
        _option("--paper", metavar="TEXT"),
        _option("--contact", metavar="TEXT", help="for the operator alone, in no record"),
        _option(
            "--hashes-only", action="store_true",
            help="publish neither weights nor evidence, but their sha256",
        ),
    ),
    "with --watch",
)  # fmt: skip

# ---------------------------------------------------------------- the commands

# Headings of the help: what a person wants who calls it.
_MEASURE, _LOOK = "measure a model", "look and compare"
_CHECK, _KEEP = "check a number", "keep the records"
_HOST = "host submissions"

COMMANDS = (
    Command(
        _MEASURE, "evaluate", "bench.cli.evaluate:run", "attack checkpoints, write records",
        (
            _model(
                "checkpoint", nargs="*", type=Path,
                help="checkpoint folders, or robustbench:<model id>",
            ),
            _ZOO, _CHECKPOINTS,
            _option("--kept", choices=("last", "best", "all"), default="last"),
            _option("--only-dataset", metavar="D", help="of those found: trained on D"),
            _option("--only-arch", metavar="A", help="of those found: of architecture A"),
            _option(
                "--only-seeds", metavar="0,1", help="of those found: these seeds",
                check=lambda text: whole_numbers(text, "--only-seeds"),
            ),
            *_OWN_MODEL,
            _option(
                "--dataset", dest="data", metavar="D", help=f"measure on {_WHERE}", check=_known_dataset
            ),
            _option(
                "--shard", metavar="i/N", check=Share.parse,
                help="make worker i's share of N of every measurement, and no record: merge makes it",
            ),
            *_MEASURING,
        ),
        "Without CHECKPOINT: every checkpoint under --checkpoints not yet measured.",
    ),
    Command(
        _MEASURE, "merge", "bench.cli.shares:merge",
        "the record of a measurement whose shares are made",
        (
            _model(
                "checkpoint", nargs="*", type=Path, metavar="FOLDER",
                help="folders of parts that shares left, those of one measurement from any number of "
                "machines; or the checkpoint, with the arguments that evaluate was given",
            ),
            _ZOO, *_OWN_MODEL,
            _option(
                "--dataset", dest="data", metavar="D", help=f"measure on {_WHERE}", check=_known_dataset
            ),
            *_MEASURING,
        ),
        "Says which shares are missing or damaged, with exit status 1 and no record. Audits "
        "of a sample are made here.",
    ),
    Command(
        _MEASURE, "doctor", "bench.cli.examine:examine",
        "preflight: is a checkpoint ready to be measured?",
        (
            _model(
                "checkpoint", nargs="?", type=Path, metavar="CHECKPOINT",
                help="a checkpoint folder, or robustbench:<model id>",
            ),
            _ZOO, *_OWN_MODEL, _DATASET, _DATASET_NAME, _SPLIT, _THREAT,
            _whole("--n", help="the first n images; default 256"),
            _option("--claimed", type=float, metavar="0.84", help="clean accuracy it should have"),
            _model(
                "--transfer-from", type=Path, metavar="CHECKPOINT",
                help="another model, to attack from",
            ),
            _option(
                "--metamorphic", action="store_true",
                help="also attack equivalent networks (minutes)",
            ),
            _PASS,
            _DEVICE, _SEED, _JSON,
        ),
        "One line a check: ok, warn or fail. Exit status 1 where something failed.",
    ),
    Command(
        _MEASURE, "import", "bench.cli.submit:import_only",
        "foreign state dict -> checkpoint folder", _STATE_DICT
    ),
    Command(
        _MEASURE, "submit", "bench.cli.submit:run", "import, check, evaluate and record in one go",
        (
            *(_FOUND_ARCH if each is _ARCH else each for each in _STATE_DICT),
            _option("--data", metavar="D", help=f"measure on {_WHERE}", check=_known_dataset),
            *_MEASURING,
            _WATCHED,
        ),
    ),
    Command(
        _MEASURE, "submissions", "bench.cli.submissions:run",
        "submit every network that a file declares",
        (
            _option("file", type=Path, metavar="FILE.json", check=_there),
            _option(
                "--files", type=Path, required=True, metavar="DIR", check=_there,
                help="where the files of weights lie",
            ),
            _option(
                "--only", action="append", default=[], metavar="NAME", help="this one; may be repeated"
            ),
            _option(
                "--protocol", metavar="P", help="instead of those declared", check=_known_protocol
            ),
            _whole("--n", help="instead of the number of images declared"),
            _option(
                "--dry", action="store_true", help="print the calls of submit and make none of them"
            ),
            _CHECKPOINTS, _WORKERS, _SECONDS, _folder("--out", "results"), _YES,
        ),
        "In the order of the file; the same command goes on from what is finished. Exit status: the "
        "highest of the calls.",
    ),
    Command(
        _LOOK, "table", "bench.cli.tables:table", "records -> leaderboard; writes it and prints it",
        (
            _RESULTS,
            _option(
                "--format", choices=tuple(FORMATS), default="text",
                help="; ".join(f"{name}: {chosen.meaning}" for name, chosen in FORMATS.items()),
            ),
            _option(
                "--out", type=Path, metavar="FILE",
                help="write the format there, and nothing else; a folder where it is many files",
            ),
            _option(
                "--published", action="store_true",
                help="with published numbers, marked as not measured here",
            ),
            _option("--dataset", metavar="D", help="only rows on this data set"),
            _option("--threat", metavar="linf:8/255", help="only rows under this threat model"),
            _option("--protocol", metavar="P", help="only rows measured by this protocol"),
            _whole("--n", help="only rows measured on so many images"),
            _option("--check", action="store_true", help="write nothing; exit 1 where stale"),
            _option("--quiet", action="store_true", help="write it and print nothing"),
        ),
    ),
    Command(
        _LOOK, "board", "bench.cli.board:run", "open the board in a browser",
        (
            _RESULTS,
            _option(
                "--intake", type=Path, metavar="FILE.toml", check=_there,
                help="take submissions, with the settings of this file",
            ),
        ),
    ),
    Command(
        _LOOK, "list", "bench.cli.tables:catalogue", "data sets, architectures, protocols and flags",
        (
            _option(
                "--zoo", nargs="?", type=Path, const=_ZOO_DEFAULT, metavar="DIR", check=_zoo_folder,
                help="the models of RobustBench's zoo instead, and which weights are on disk",
            ),
            _option(
                "--challenges", action="store_true",
                help="adversarial images that others handed in instead, and what they broke",
            ),
            _RESULTS,
        ),
    ),
    Command(
        _LOOK, "compare", "bench.cli.compare:run",
        "which of two models is better, and how sure is that",
        (
            _model("a", metavar="A", help="checkpoint folder or record file"),
            _model("b", nargs="?", metavar="B", help="as A; differences are A minus B"),
            _option("--threat", metavar="linf:8/255", help="default: the data set's, or any"),
            _option("--protocol", metavar="P", help=_PROTOCOLS),
            _option(
                "--protocols", nargs=2, metavar=("P", "Q"), check=_known_protocols,
                help="without B: which images of A only one of two protocols breaks",
            ),
            _option(
                "--level", type=float, default=0.05,
                help="chance of calling equal models separated",
            ),
            _RESULTS, _JSON,
            Group(
                (
                    _option("--until-sure", action="store_true", help="attack until separated"),
                    _whole(
                        "--max-n", metavar="N",
                        help="the budget in images; default all, on a CPU 1,000. A larger one goes "
                        "on from there",
                    ),
                    _option(
                        "--go-on", action="store_true", help="to --max-n though they are separated"
                    ),
                    _option("--dataset", metavar="D", help="default: what A was trained on"),
                    _DATASET_NAME, _SPLIT,
                    _whole("--seed", 0, default=0, help="of the attacks and of the order"),
                    _DEVICE, _WORKERS, _BATCH, _SECONDS, _ZOO, _YES,
                ),
                "with --until-sure",
            ),
        ),
        "By the records there are; two record files of one network are compared as --protocols does. "
        "With --until-sure: attacks both models (checkpoint folders or "
        "robustbench:<model id>) on ever more images, until they are separated.",
    ),
    Command(_LOOK, "published", "", "published numbers, never measured here", ()),
    Command(
        "", "published list", "bench.cli.tables:published", "what there is, by data set and threat",
        (_RESULTS,),
    ),
    Command(
        "", "published add", "bench.cli.tables:add", "files in the format of RobustBench's model_info",
        (
            _RESULTS,
            _option("files", type=Path, nargs="+", metavar="FILE.json"),
            _option(
                "--norm", choices=tuple(PUBLISHED_NORMS.values()),
                help="default: the name of the folder of the file",
            ),
            _option(
                "--awp", choices=("yes", "likely", "no"),
                help="whether weights were perturbed; likely: nobody says so, but the code that "
                "trained them defaults to it, which needs --awp-source",
            ),
            _option(
                "--awp-source", metavar="TEXT",
                help="who says so: owner/repository@commit script --default, arXiv id",
            ),
        ),
    ),
    Command(
        _CHECK, "verify", "bench.cli.examine:prove",
        "re-prove a record's broken bits, attack some standing images again",
        (
            _model("record", type=Path, help="a record, or a model's folder of records"),
            _option(
                "--weights", type=Path, check=_there,
                help="checkpoint folder, or the file that others published, where no weights are "
                "beside the record",
            ),
            _option(
                "--evidence", type=Path, check=_there,
                help="evidence file, where not beside the record",
            ),
            _option(
                "--dataset", metavar="D", help="where images of a folder lie: parquet:FOLDER …",
                check=_known_dataset,
            ),
            _ZOO,
            Group(
                (
                    _whole(
                        "--reattack", 0, metavar="M",
                        help="standing images to attack again; default 60",
                    ),
                    _option("--no-reattack", dest="reattack", action="store_const", const=0),
                )
            ),
            _option(
                "--attack", metavar="COLUMN",
                help="what attacks again; default: the gradient attacks of the record's strongest "
                "column",
            ),
            _whole("--seed", 0, help="of the second attack; default: a public one"),
            _DEVICE, _YES, _JSON,
        ),
        "Exit status: 0 all that can be proven is proven (standing images that the second attack "
        "breaks are a warning: the record claims no more than it saw), 1 something is not proven or "
        "its evidence is not here, 2 a file is missing or is not the one the record names.",
    ),
    Command(
        _CHECK, "challenge", "bench.cli.challenge:run",
        "adversarial images that you found, against a network on the board",
        (
            _model(
                "record", type=Path, metavar="MODEL", help="a model's folder of records, or a record"
            ),
            _option(
                "file", type=Path, metavar="FILE", check=_there,
                help="safetensors: indices int64 (K,), images float32 or uint8 (K, C, H, W)",
            ),
            _option("--by", required=True, metavar="NAME", help="who is credited"),
            _option("--link", metavar="URL", help="where more is said of it"),
            _option(
                "--weights", type=Path, check=_there,
                help="checkpoint folder or file, where no weights are beside the record",
            ),
            _option("--dataset", metavar="D", help="where images of a folder lie: parquet:FOLDER …"),
            _RESULTS, _DEVICE, _JSON,
        ),
        "What it breaks lowers best known, is credited to NAME and moves no rank. Nothing is kept of a "
        "file that breaks nothing new.",
    ),
    Command(
        _CHECK, "agree", "bench.cli.agree:run",
        "do our attacks and the published ones agree? both over many seeds",
        (
            _FOLDERS,
            _whole("--seeds", default=20, metavar="S", help="seeds 0 to S - 1"),
            _option(
                "--columns", metavar="A,B",
                help="of apgd-ce, apgd-t, fab-t, square and autoattack; default: all of them",
            ),
            _DATASET, _DATASET_NAME, _SPLIT, _THREAT, _N,
            _option(
                "--proven", type=float, metavar="0.485",
                help="a proven lower bound of robust accuracy",
            ),
            _DEVICE,
            _whole("--batch", help="images attacked at once"),
            _whole("--workers", default=1, help="cells at a time, on a CPU"),
            _folder("--out", "results/agreement"),
            _YES, _JSON,
        ),
        "What is finished is kept under --out; the same command continues, more seeds or columns "
        "add to it.",
    ),
    Command(
        _MEASURE, "gap", "bench.cli.examine:gap",
        "robust generalisation gap: training against test images",
        (
            _FOLDERS,
            _whole("--n", help="at most so many images of each part; default 1,000"),
            _SPLIT,
            _option(
                "--dataset", metavar="D", help="where images of one's own lie: imagefolder:FOLDER",
                check=_known_dataset,
            ),
            _option("--save", action="store_true", help="write gap.json beside the weights"),
            _DEVICE, _JSON,
        ),
        "PGD-20 at the weights, in eval mode, unaugmented, on the training images that the card's "
        "settings draw again, and on test images.",
    ),
    Command(
        _MEASURE, "contamination", "bench.cli.examine:contaminated",
        "does a network show that it was trained on test images?",
        (
            _FOLDERS,
            _whole(
                "--n", 100, metavar="N",
                help="at most so many of each part; default 10,000, of training images 2,000",
            ),
            _SPLIT,
            _option(
                "--second", metavar="SPLIT",
                help="images that it was kept from: a split, or imagefolder:FOLDER; default: the "
                "training images that the run left",
            ),
            _option(
                "--trained-on", metavar="SPLIT",
                help='what it is stated to be trained on: "train[0:50000]"; default: by its run',
            ),
            _option("--dataset", metavar="D", help="of these splits; default: the card's"),
            _option(
                "--threat", metavar="linf:8/255", check=_understood,
                help="of FGSM; default: what it was trained against",
            ),
            _option("--save", action="store_true", help="write contamination.json beside the weights"),
            _DEVICE, _JSON,
        ),
        "Losses of test images beside those of a second set of the same distribution, unattacked and "
        "under FGSM: lower ones are a sign. Exit status 1 where there is one.",
    ),
    Command(
        _MEASURE, "landscape", "bench.cli.landscape:run",
        "the loss under attack along random directions of the weights",
        (
            _FOLDERS,
            _whole("--directions", default=1, metavar="K", help="random directions; default 1"),
            _option(
                "--points", type=int, default=21, check=_odd_points,
                help="of each direction, odd: alpha from -1 to 1; default 21",
            ),
            _option(
                "--reach", type=float, default=1.0, metavar="A", check=_above_zero("--reach"),
                help="alpha from -A to A; at 1, d is as long as the weights",
            ),
            *_LANDSCAPE,
            _option(
                "--attack", default="pgd10", metavar="pgdN", check=_steps_of_pgd,
                help="N steps of PGD; default pgd10",
            ),
            _option(
                "--examples", choices=("fly", "fixed"), default="fly",
                help="fly: attacked anew at every point; fixed: attacked once at the trained weights, "
                "which misleads",
            ),
            _option(
                "--batchnorm", choices=("kept", "anew"), default="kept",
                help="BatchNorm statistics: those of the network, or estimated at every point",
            ),
            _folder("--out", "results/landscape"),
        ),
        "Points that are finished are kept under --out; the same command continues, more directions "
        "or points add to it.",
    ),
    Command(
        _MEASURE, "flatness", "bench.cli.flatness:run",
        "how much the loss rises beside the weights, on average and at worst",
        (
            _FOLDERS,
            _option(
                "--measures", metavar="A,B", check=_measures,
                help="of average, worst, sharpness and adversarial-sharpness; default: all of them",
            ),
            *_LANDSCAPE,
            _whole("--draws", help="directions of average, starts of worst; as published: 10"),
            _whole("--restarts", help="of the attack; as published: 10 for average and worst"),
            _whole("--attack-steps", help="of the attack; as published: 20"),
            _folder("--out", "results/flatness"),
        ),
        "As published (arXiv 2104.04448, arXiv 2302.07011), unless asked for less, which is said "
        "beside the numbers. Measures that are finished are kept under --out.",
    ),
    Command(
        _KEEP, "withdraw", "bench.cli.tables:withdraw", "take a record out of the table",
        (
            _option("record", type=Path, nargs="?"),
            _option("--reason", help="what was wrong"),
            _RESULTS,
            _option(
                "--superseded", action="store_true",
                help="instead of RECORD: each of the published engine whose question (weights, images, "
                "threat, protocol, seed) ours has answered for the same name",
            ),
            _option("--dry-run", action="store_true", help="with --superseded: list them alone"),
        ),
        "The record stays where it is, is named below the tables, and can be verified.",
    ),
    Command(
        _HOST, "work", "bench.cli.queue:work", "measure what was submitted, for ever",
        (
            _option("--slot", default="w1", metavar="NAME", help="a name for each worker of a host"),
            _option("--once", action="store_true", help="end when nothing is left to do"),
            _INTAKE,
        ),
        "A worker takes one core or one GPU. What a killed one leaves is gone on with.",
    ),
    Command(
        _HOST, "queue", "bench.cli.queue:queue", "submissions: list, retry, reject, remove, back up",
        (
            _option(
                "do", nargs="?", default="list", metavar="DO",
                choices=("list", "retry", "reject", "remove", "backup", "restore"),
                help="list (the default), retry ID, reject ID, remove ID, backup FILE, restore FILE",
            ),
            _option("what", nargs="?", metavar="ID | FILE"),
            _option("--reason", help="for reject and remove: what is wrong"),
            _option("--remedy", help="for reject: what its submitter can do"),
            _INTAKE, _JSON,
        ),
    ),
)  # fmt: skip
