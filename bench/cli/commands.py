"""COMMANDS: what every command is called, what it takes and which function answers it, as data.

Nothing here loads torch: `--help` and wrong calls answer at once.
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.arguments import whole_numbers
from bench.cli.options import (
    ARCH,
    BATCH,
    CHECKPOINTS,
    DATASET,
    DATASET_NAME,
    DEVICE,
    FOLDERS,
    FOUND_ARCH,
    INTAKE,
    JSON,
    LANDSCAPE,
    MEASURING,
    OWN_MODEL,
    PASS,
    PROTOCOLS,
    RESULTS,
    SECONDS,
    SEED,
    SPLIT,
    STATE_DICT,
    THREAT,
    WATCHED,
    WHERE,
    WORKERS,
    YES,
    ZOO,
    ZOO_DEFAULT,
    N,
    above_zero,
    folder,
    known_dataset,
    known_protocol,
    known_protocols,
    measures,
    model,
    odd_points,
    option,
    steps_of_pgd,
    there,
    understood,
    whole,
    zoo_folder,
)
from bench.cli.parsing import Command, Group
from bench.exports.formats import FORMATS
from bench.measure.share import Share
from bench.schema.threat import PUBLISHED_NORMS

_MEASURE, _LOOK = "measure a model", "look and compare"
_CHECK, _KEEP = "check a number", "keep the records"
_HOST = "host submissions"

COMMANDS = (
    Command(
        _MEASURE, "evaluate", "bench.cli.evaluate:run", "attack checkpoints, write records",
        (
            model(
                "checkpoint", nargs="*", type=Path,
                help="checkpoint folders, or robustbench:<model id>",
            ),
            ZOO, CHECKPOINTS,
            option("--kept", choices=("last", "best", "all"), default="last"),
            option("--only-dataset", metavar="D", help="of those found: trained on D"),
            option("--only-arch", metavar="A", help="of those found: of architecture A"),
            option(
                "--only-seeds", metavar="0,1", help="of those found: these seeds",
                check=lambda text: whole_numbers(text, "--only-seeds"),
            ),
            *OWN_MODEL,
            option(
                "--dataset", dest="data", metavar="D", help=f"measure on {WHERE}", check=known_dataset
            ),
            option(
                "--shard", metavar="i/N", check=Share.parse,
                help="make worker i's share of N of every measurement, and no record: merge makes it",
            ),
            *MEASURING,
        ),
        "Without CHECKPOINT: every checkpoint under --checkpoints not yet measured.",
    ),
    Command(
        _MEASURE, "merge", "bench.cli.shares:merge",
        "the record of a measurement whose shares are made",
        (
            model(
                "checkpoint", nargs="*", type=Path, metavar="FOLDER",
                help="folders of parts that shares left, those of one measurement from any number of "
                "machines; or the checkpoint, with the arguments that evaluate was given",
            ),
            ZOO, *OWN_MODEL,
            option(
                "--dataset", dest="data", metavar="D", help=f"measure on {WHERE}", check=known_dataset
            ),
            *MEASURING,
        ),
        "Says which shares are missing or damaged, with exit status 1 and no record. Audits "
        "of a sample are made here.",
    ),
    Command(
        _MEASURE, "doctor", "bench.cli.examine:examine",
        "preflight: is a checkpoint ready to be measured?",
        (
            model(
                "checkpoint", nargs="?", type=Path, metavar="CHECKPOINT",
                help="a checkpoint folder, or robustbench:<model id>",
            ),
            ZOO, *OWN_MODEL, DATASET, DATASET_NAME, SPLIT, THREAT,
            whole("--n", help="the first n images; default 256"),
            option("--claimed", type=float, metavar="0.84", help="clean accuracy it should have"),
            model(
                "--transfer-from", type=Path, metavar="CHECKPOINT",
                help="another model, to attack from",
            ),
            option(
                "--metamorphic", action="store_true",
                help="also attack equivalent networks (minutes)",
            ),
            PASS,
            DEVICE, SEED, JSON,
        ),
        "One line a check: ok, warn or fail. Exit status 1 where something failed.",
    ),
    Command(
        _MEASURE, "import", "bench.cli.submit:import_only",
        "foreign state dict -> checkpoint folder", STATE_DICT
    ),
    Command(
        _MEASURE, "submit", "bench.cli.submit:run", "import, check, evaluate and record in one go",
        (
            *(FOUND_ARCH if each is ARCH else each for each in STATE_DICT),
            option("--data", metavar="D", help=f"measure on {WHERE}", check=known_dataset),
            *MEASURING,
            WATCHED,
        ),
    ),
    Command(
        _MEASURE, "submissions", "bench.cli.submissions:run",
        "submit every network that a file declares",
        (
            option("file", type=Path, metavar="FILE.json", check=there),
            option(
                "--files", type=Path, required=True, metavar="DIR", check=there,
                help="where the files of weights lie",
            ),
            option(
                "--only", action="append", default=[], metavar="NAME", help="this one; may be repeated"
            ),
            option(
                "--protocol", metavar="P", help="instead of those declared", check=known_protocol
            ),
            whole("--n", help="instead of the number of images declared"),
            option(
                "--dry", action="store_true", help="print the calls of submit and make none of them"
            ),
            CHECKPOINTS, WORKERS, SECONDS, folder("--out", "results"), YES,
        ),
        "In the order of the file; the same command goes on from what is finished. Exit status: the "
        "highest of the calls.",
    ),
    Command(
        _LOOK, "table", "bench.cli.tables:table", "records -> leaderboard; writes it and prints it",
        (
            RESULTS,
            option(
                "--format", choices=tuple(FORMATS), default="text",
                help="; ".join(f"{name}: {chosen.meaning}" for name, chosen in FORMATS.items()),
            ),
            option(
                "--out", type=Path, metavar="FILE",
                help="write the format there, and nothing else; a folder where it is many files",
            ),
            option(
                "--published", action="store_true",
                help="with published numbers, marked as not measured here",
            ),
            option("--dataset", metavar="D", help="only rows on this data set"),
            option("--threat", metavar="linf:8/255", help="only rows under this threat model"),
            option("--protocol", metavar="P", help="only rows measured by this protocol"),
            whole("--n", help="only rows measured on so many images"),
            option("--check", action="store_true", help="write nothing; exit 1 where stale"),
            option("--quiet", action="store_true", help="write it and print nothing"),
        ),
    ),
    Command(
        _LOOK, "board", "bench.cli.board:run", "open the board in a browser",
        (
            RESULTS,
            option(
                "--intake", type=Path, metavar="FILE.toml", check=there,
                help="take submissions, with the settings of this file",
            ),
        ),
    ),
    Command(
        _LOOK, "list", "bench.cli.tables:catalogue", "data sets, architectures, protocols and flags",
        (
            option(
                "--zoo", nargs="?", type=Path, const=ZOO_DEFAULT, metavar="DIR", check=zoo_folder,
                help="the models of RobustBench's zoo instead, and which weights are on disk",
            ),
            option(
                "--challenges", action="store_true",
                help="adversarial images that others handed in instead, and what they broke",
            ),
            RESULTS,
        ),
    ),
    Command(
        _LOOK, "compare", "bench.cli.compare:run",
        "which of two models is better, and how sure is that",
        (
            model("a", metavar="A", help="checkpoint folder or record file"),
            model("b", nargs="?", metavar="B", help="as A; differences are A minus B"),
            option("--threat", metavar="linf:8/255", help="default: the data set's, or any"),
            option("--protocol", metavar="P", help=PROTOCOLS),
            option(
                "--protocols", nargs=2, metavar=("P", "Q"), check=known_protocols,
                help="without B: which images of A only one of two protocols breaks",
            ),
            option(
                "--level", type=float, default=0.05,
                help="chance of calling equal models separated",
            ),
            RESULTS, JSON,
            Group(
                (
                    option("--until-sure", action="store_true", help="attack until separated"),
                    whole(
                        "--max-n", metavar="N",
                        help="the budget in images; default all, on a CPU 1,000. A larger one goes "
                        "on from there",
                    ),
                    option(
                        "--go-on", action="store_true", help="to --max-n though they are separated"
                    ),
                    option("--dataset", metavar="D", help="default: what A was trained on"),
                    DATASET_NAME, SPLIT,
                    whole("--seed", 0, default=0, help="of the attacks and of the order"),
                    DEVICE, WORKERS, BATCH, SECONDS, ZOO, YES,
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
        (RESULTS,),
    ),
    Command(
        "", "published add", "bench.cli.tables:add", "files in the format of RobustBench's model_info",
        (
            RESULTS,
            option("files", type=Path, nargs="+", metavar="FILE.json"),
            option(
                "--norm", choices=tuple(PUBLISHED_NORMS.values()),
                help="default: the name of the folder of the file",
            ),
            option(
                "--awp", choices=("yes", "likely", "no"),
                help="whether weights were perturbed; likely: nobody says so, but the code that "
                "trained them defaults to it, which needs --awp-source",
            ),
            option(
                "--awp-source", metavar="TEXT",
                help="who says so: owner/repository@commit script --default, arXiv id",
            ),
        ),
    ),
    Command(
        _CHECK, "verify", "bench.cli.examine:prove",
        "re-prove a record's broken bits, attack some standing images again",
        (
            model("record", type=Path, help="a record, or a model's folder of records"),
            option(
                "--weights", type=Path, check=there,
                help="checkpoint folder, or the file that others published, where no weights are "
                "beside the record",
            ),
            option(
                "--evidence", type=Path, check=there,
                help="evidence file, where not beside the record",
            ),
            option(
                "--dataset", metavar="D", help="where images of a folder lie: parquet:FOLDER …",
                check=known_dataset,
            ),
            ZOO,
            Group(
                (
                    whole(
                        "--reattack", 0, metavar="M",
                        help="standing images to attack again; default 60",
                    ),
                    option("--no-reattack", dest="reattack", action="store_const", const=0),
                )
            ),
            option(
                "--attack", metavar="COLUMN",
                help="what attacks again; default: the gradient attacks of the record's strongest "
                "column",
            ),
            whole("--seed", 0, help="of the second attack; default: a public one"),
            DEVICE, YES, JSON,
        ),
        "Exit status: 0 all that can be proven is proven (standing images that the second attack "
        "breaks are a warning: the record claims no more than it saw), 1 something is not proven or "
        "its evidence is not here, 2 a file is missing or is not the one the record names.",
    ),
    Command(
        _CHECK, "challenge", "bench.cli.challenge:run",
        "adversarial images that you found, against a network on the board",
        (
            model(
                "record", type=Path, metavar="MODEL", help="a model's folder of records, or a record"
            ),
            option(
                "file", type=Path, metavar="FILE", check=there,
                help="safetensors: indices int64 (K,), images float32 or uint8 (K, C, H, W)",
            ),
            option("--by", required=True, metavar="NAME", help="who is credited"),
            option("--link", metavar="URL", help="where more is said of it"),
            option(
                "--weights", type=Path, check=there,
                help="checkpoint folder or file, where no weights are beside the record",
            ),
            option("--dataset", metavar="D", help="where images of a folder lie: parquet:FOLDER …"),
            RESULTS, DEVICE, JSON,
        ),
        "What it breaks lowers best known, is credited to NAME and moves no rank. Nothing is kept of a "
        "file that breaks nothing new.",
    ),
    Command(
        _CHECK, "agree", "bench.cli.agree:run",
        "do our attacks and the published ones agree? both over many seeds",
        (
            FOLDERS,
            whole("--seeds", default=20, metavar="S", help="seeds 0 to S - 1"),
            option(
                "--columns", metavar="A,B",
                help="of apgd-ce, apgd-t, fab-t, square and autoattack; default: all of them",
            ),
            DATASET, DATASET_NAME, SPLIT, THREAT, N,
            option(
                "--proven", type=float, metavar="0.485",
                help="a proven lower bound of robust accuracy",
            ),
            DEVICE,
            whole("--batch", help="images attacked at once"),
            whole("--workers", default=1, help="cells at a time, on a CPU"),
            folder("--out", "results/agreement"),
            YES, JSON,
        ),
        "What is finished is kept under --out; the same command continues, more seeds or columns "
        "add to it.",
    ),
    Command(
        _MEASURE, "gap", "bench.cli.examine:gap",
        "robust generalisation gap: training against test images",
        (
            FOLDERS,
            whole("--n", help="at most so many images of each part; default 1,000"),
            SPLIT,
            option(
                "--dataset", metavar="D", help="where images of one's own lie: imagefolder:FOLDER",
                check=known_dataset,
            ),
            option("--save", action="store_true", help="write gap.json beside the weights"),
            DEVICE, JSON,
        ),
        "PGD-20 at the weights, in eval mode, unaugmented, on the training images that the card's "
        "settings draw again, and on test images.",
    ),
    Command(
        _MEASURE, "contamination", "bench.cli.examine:contaminated",
        "does a network show that it was trained on test images?",
        (
            FOLDERS,
            whole(
                "--n", 100, metavar="N",
                help="at most so many of each part; default 10,000, of training images 2,000",
            ),
            SPLIT,
            option(
                "--second", metavar="SPLIT",
                help="images that it was kept from: a split, or imagefolder:FOLDER; default: the "
                "training images that the run left",
            ),
            option(
                "--trained-on", metavar="SPLIT",
                help='what it is stated to be trained on: "train[0:50000]"; default: by its run',
            ),
            option("--dataset", metavar="D", help="of these splits; default: the card's"),
            option(
                "--threat", metavar="linf:8/255", check=understood,
                help="of FGSM; default: what it was trained against",
            ),
            option("--save", action="store_true", help="write contamination.json beside the weights"),
            DEVICE, JSON,
        ),
        "Losses of test images beside those of a second set of the same distribution, unattacked and "
        "under FGSM: lower ones are a sign. Exit status 1 where there is one.",
    ),
    Command(
        _MEASURE, "landscape", "bench.cli.landscape:run",
        "the loss under attack along random directions of the weights",
        (
            FOLDERS,
            whole("--directions", default=1, metavar="K", help="random directions; default 1"),
            option(
                "--points", type=int, default=21, check=odd_points,
                help="of each direction, odd: alpha from -1 to 1; default 21",
            ),
            option(
                "--reach", type=float, default=1.0, metavar="A", check=above_zero("--reach"),
                help="alpha from -A to A; at 1, d is as long as the weights",
            ),
            *LANDSCAPE,
            option(
                "--attack", default="pgd10", metavar="pgdN", check=steps_of_pgd,
                help="N steps of PGD; default pgd10",
            ),
            option(
                "--examples", choices=("fly", "fixed"), default="fly",
                help="fly: attacked anew at every point; fixed: attacked once at the trained weights, "
                "which misleads",
            ),
            option(
                "--batchnorm", choices=("kept", "anew"), default="kept",
                help="BatchNorm statistics: those of the network, or estimated at every point",
            ),
            folder("--out", "results/landscape"),
        ),
        "Points that are finished are kept under --out; the same command continues, more directions "
        "or points add to it.",
    ),
    Command(
        _MEASURE, "flatness", "bench.cli.flatness:run",
        "how much the loss rises beside the weights, on average and at worst",
        (
            FOLDERS,
            option(
                "--measures", metavar="A,B", check=measures,
                help="of average, worst, sharpness and adversarial-sharpness; default: all of them",
            ),
            *LANDSCAPE,
            whole("--draws", help="directions of average, starts of worst; as published: 10"),
            whole("--restarts", help="of the attack; as published: 10 for average and worst"),
            whole("--attack-steps", help="of the attack; as published: 20"),
            folder("--out", "results/flatness"),
        ),
        "As published (arXiv 2104.04448, arXiv 2302.07011), unless asked for less, which is said "
        "beside the numbers. Measures that are finished are kept under --out.",
    ),
    Command(
        _KEEP, "withdraw", "bench.cli.tables:withdraw", "take a record out of the table",
        (
            option("record", type=Path, nargs="?"),
            option("--reason", help="what was wrong"),
            RESULTS,
            option(
                "--superseded", action="store_true",
                help="instead of RECORD: each of the published engine whose question (weights, images, "
                "threat, protocol, seed) ours has answered for the same name",
            ),
            option("--dry-run", action="store_true", help="with --superseded: list them alone"),
        ),
        "The record stays where it is, is named below the tables, and can be verified.",
    ),
    Command(
        _HOST, "work", "bench.cli.queue:work", "measure what was submitted, for ever",
        (
            option("--slot", default="w1", metavar="NAME", help="a name for each worker of a host"),
            option("--once", action="store_true", help="end when nothing is left to do"),
            INTAKE,
        ),
        "A worker takes one core or one GPU. What a killed one leaves is gone on with.",
    ),
    Command(
        _HOST, "queue", "bench.cli.queue:queue", "submissions: list, retry, reject, remove, back up",
        (
            option(
                "do", nargs="?", default="list", metavar="DO",
                choices=("list", "retry", "reject", "remove", "backup", "restore"),
                help="list (the default), retry ID, reject ID, remove ID, backup FILE, restore FILE",
            ),
            option("what", nargs="?", metavar="ID | FILE"),
            option("--reason", help="for reject and remove: what is wrong"),
            option("--remedy", help="for reject: what its submitter can do"),
            INTAKE, JSON,
        ),
    ),
)  # fmt: skip
