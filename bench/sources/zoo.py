"""RobustBench's model zoo (arXiv 2010.09670): an entry's network, with its published weights.

An entry is named `robustbench:<id>`, or `robustbench:<data set>/<threat>/<id>` where its id stands for
several. RobustBench's package gives the architecture; the weights are a file under var/zoo, put there
by hand or fetched from where RobustBench keeps it. Weights are data here too: nothing in them runs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from bench.catalogue import DATASETS, LONGEST_NAME, nearest
from bench.published import files
from bench.records.lock import made
from bench.records.one_read import opened, read_whole, sha256_of_bytes
from bench.schema import AwpConfig, InvalidInput, ModelCard, Objective, ThreatModel
from bench.sources import state_dicts, weight_files
from bench.sources.pickles import Stored
from bench.sources.robustbench_repairs import import_robustbench

PREFIX = "robustbench:"
ROOT = Path("var/zoo")
_DEFAULT_BOARD = ("cifar10", "Linf")  # of RobustBench's load_model
PUBLISHED = files.SHIPPED
SUFFIXES = (".pt", ".pth", ".safetensors")
STALL = 60  # seconds without a new byte after which a download is given up
LONGEST = 2 * 3600  # seconds after which any download is; the largest files are 1.5 GB
# The radii of RobustBench's leaderboards of CIFAR-10 and CIFAR-100.
_RADII = {"Linf": "linf:8/255", "L2": "l2:0.5"}


@dataclass(frozen=True)
class Entry:
    """One line of RobustBench's zoo."""

    dataset: str  # "cifar10"
    threat: str  # RobustBench's word: "Linf", "L2" or "corruptions"
    id: str  # "Wu2020Adversarial"
    gdrive_id: str | None  # of the weights on Google Drive; None where they are not one file there
    refusal: str = ""  # why it is not measured here; empty where it is
    root: Path = ROOT

    @property
    def link(self) -> str:
        """`robustbench:cifar10/Linf/Wu2020Adversarial`: names this entry alone; stands in its card."""
        return f"{PREFIX}{self.dataset}/{self.threat}/{self.id}"

    @property
    def ranked_under(self) -> ThreatModel | None:
        """The threat of its leaderboard; None for corruptions, which are no norm ball."""
        return ThreatModel.parse(_RADII[self.threat]) if self.threat in _RADII else None

    @property
    def address(self) -> str:
        """Where the weights can be fetched with a browser."""
        return f"https://drive.google.com/uc?id={self.gdrive_id}"

    @property
    def path(self) -> Path:
        """The weights on disk; where they would be, where they are not."""
        stem = self.root / self.dataset / self.threat / self.id
        places = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
        return next((p for p in places if p.is_file()), places[0])


def source(text: str | Path, root: Path = ROOT) -> Path | Entry:
    """What is to be measured: the zoo entry of a name `robustbench:...`, else a checkpoint folder."""
    return find(str(text), root) if str(text).startswith(PREFIX) else Path(text)


def entries(root: Path = ROOT) -> list[Entry]:
    """Every entry of the installed RobustBench, in its order; those not measured here say why."""
    return [
        Entry(
            dataset, threat, name,
            details["gdrive_id"] if isinstance(details["gdrive_id"], str) else None,
            _refusal(dataset, details["gdrive_id"]), root,
        )
        for (dataset, threat), ids in _models().items()
        for name, details in ids.items()
    ]  # fmt: skip


@functools.cache
def _models() -> dict[tuple[str, str], Mapping[str, Any]]:
    """RobustBench's own lists: (data set, threat) -> id -> how to build it, where its weights are."""
    import_robustbench()
    lists = importlib.import_module("robustbench.model_zoo.models").model_dicts
    return {(d.value, t.value): ids for d, threats in lists.items() for t, ids in threats.items()}


def _refusal(dataset: str, drive: object) -> str:
    if dataset not in DATASETS:
        return f"no {dataset} images are read here"
    if isinstance(drive, list):
        return f"an ensemble of {len(drive)} weight files; one network in one file is measured here"
    return "" if isinstance(drive, str) else "timm keeps its weights, RobustBench names no file"


def find(name: str, root: Path = ROOT) -> Entry:
    """The entry of a name, `robustbench:<id>` with data set and threat before the id where needed.

    An id of several boards means the one on CIFAR-10 under Linf, as in RobustBench's load_model. Raises
    InvalidInput that lists the possibilities of an ambiguous name, suggests the nearest of an unknown
    one, and gives the reason for one that is not measured here.
    """
    *words, wanted = name.removeprefix(PREFIX).split("/")
    known = entries(root)
    same_id = [e for e in known if e.id == wanted]
    if not same_id:
        folded = {e.id.casefold(): e.id for e in known}
        near = nearest(wanted.casefold(), folded, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(folded[n] for n in near)}? " if near else ""
        raise InvalidInput(
            f"RobustBench has no model {wanted[:LONGEST_NAME]!r}. {hint}"
            "All of them: python -m bench list --zoo"
        )
    said = {word.casefold() for word in words}
    fitting = [e for e in same_id if said <= {e.dataset.casefold(), e.threat.casefold()}]
    if len(fitting) > 1:
        fitting = [e for e in fitting if (e.dataset, e.threat) == _DEFAULT_BOARD] or fitting
    if len(fitting) != 1:
        several = "names several models" if fitting else "names no model, but these exist"
        links = ", ".join(e.link for e in fitting or same_id)
        raise InvalidInput(f"{PREFIX}{name.removeprefix(PREFIX)} {several}: {links}")
    if fitting[0].refusal:
        raise InvalidInput(f"{fitting[0].link} is not measured here: {fitting[0].refusal}")
    return fitting[0]


def load(entry: Entry | str, *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """The model (eval mode; (B, C, H, W) in [0, 1] -> logits) and card of an entry or its name.

    Weights that are not on disk are downloaded. Raises InvalidInput where that does not work, or
    where the file is not plain tensors of this architecture.
    """
    entry = find(entry) if isinstance(entry, str) else entry
    path = entry.path if entry.path.is_file() else fetch(entry)
    raw = read_whole(path, follow=True)
    model = build(entry)
    state = fitted(weight_files.read(raw, path).content, model, entry, path)
    state_dicts.load_weights(model, state, str(path))
    # Of the very bytes that were loaded: the file may be another one by now.
    return model.eval().to(device), _card(entry, sha256_of_bytes(raw))


def read_card(entry: Entry) -> ModelCard:
    """The card of an entry; weights that are not on disk are downloaded.

    The method is known of few entries (TRAINED). `threat` stays empty: RobustBench says
    what a model is ranked under, not what it was trained against. `arch` is its name there, not one of
    ours: `link` is what brings the model back.
    """
    return _card(entry, _sha256_on_disk(entry.path if entry.path.is_file() else fetch(entry)))


_HASHED: dict[tuple[int, ...], str] = {}  # a file in one state -> its sha256


def _sha256_on_disk(path: Path) -> str:
    """sha256 (hex) of a file; hashing takes seconds, so one that did not change is not read again."""
    with path.open("rb") as file:
        state = _state_of(file)
        if state not in _HASHED:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if state != _state_of(file):  # it was written to meanwhile
                return found
            _HASHED[state] = found
    return _HASHED[state]


def _state_of(file: IO[bytes]) -> tuple[int, ...]:
    """What tells two states of the file that is open apart, whatever its path leads to by now."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@functools.lru_cache(maxsize=64)  # building takes seconds, and cards are read often
def _card(entry: Entry, sha256: str) -> ModelCard:
    model, key = build(entry), entry.link.removeprefix(PREFIX)
    trained = TRAINED.get(key)
    return ModelCard(
        name=entry.id,
        arch=_architecture_names().get(key, type(model).__name__),
        dataset=entry.dataset,
        class_count=DATASETS[entry.dataset].class_count,
        weights_sha256=sha256,
        n_parameters=sum(p.numel() for p in model.parameters()),
        objective=trained.objective if trained else None,
        awp=trained.awp if trained else None,
        extra_data=trained.extra_data if trained else "",
        link=entry.link,
    )


@functools.cache
def _architecture_names() -> dict[str, str]:
    """`cifar10/Linf/Wu2020Adversarial` -> "WideResNet-34-10", as its leaderboard calls it.

    RobustBench's package builds networks but does not name them. Boards of corruptions are not here.
    """
    rows = files.load(PUBLISHED).rows
    return {
        f"{row.dataset}/{row.threat.norm.capitalize()}/{row.name}": row.architecture
        for row in rows
        if row.source.startswith("RobustBench/")
    }


# ---------------------------------------------------------------- architecture and weights


def build(entry: Entry) -> nn.Module:
    """The entry's architecture with fresh weights, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by RobustBench's own code
        return _models()[entry.dataset, entry.threat][entry.id]["model"]()


# Input normalisation that an architecture brings along and old files lack.
_CONSTANTS = ("mu", "sigma", "mean", "std")
# Whose architecture holds placeholders there: the file must have them.
_TRAINED_CONSTANTS = ("Modas2021PRIMEResNet18",)
# Files that hold the first and the last epoch kept; RobustBench takes the last.
_TWO_EPOCHS = ("Andriushchenko2020Understanding", "Kireev2021Effectiveness")


def fitted(
    content: object, model: nn.Module, entry: Entry, path: Path
) -> dict[str, Tensor | Stored]:
    """A file's state dict under the names that the model gives its tensors.

    As robustbench 1.1.1's load_model does it; what remains different is for `load_weights` to refuse.
    Raises InvalidInput where there is no state dict.
    """
    if entry.id.startswith(_TWO_EPOCHS) and isinstance(content, Mapping) and "last" in content:
        content = content["last"]
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # whatever averages lie beside: RobustBench reads no other
    wanted = model.state_dict()
    state: dict[str, Tensor | Stored] = {}
    if not entry.id.startswith(_TRAINED_CONSTANTS):
        state = {name: wanted[name] for name in _CONSTANTS if name in wanted}
    taken: dict[str, str] = {}
    for key, value in state_dicts.unwrap(content, path).items():
        short = key.removeprefix("module.")
        name = next((n for n in (key, short, short.removeprefix("model.")) if n in wanted), key)
        if name not in wanted and _is_unused(name):
            continue
        if name in taken:
            raise InvalidInput(f"{path} holds {name} twice, as {taken[name]} and {key}")
        taken[name], state[name] = key, value
    return state


def _is_unused(name: str) -> bool:
    """Tensors of the training code that no forward pass of the zoo's architectures reads.

    A block of old WideResNets, a second path to layers of Andriushchenko's network, and the pruning
    scores of Diffenderfer's, already applied to the weights.
    """
    return name.startswith(("sub_block1.", "model_preact_hl1.")) or name.endswith(".scores")


# ---------------------------------------------------------------- download


def fetch(entry: Entry) -> Path:
    """Downloads an entry's weights to `entry.path`; a file is there only when it is complete.

    Raises InvalidInput that says where the file can be had and where it belongs.
    """
    path = entry.path
    print(f"{entry.link}: downloading {entry.address} to {path}", file=sys.stderr)
    there = made(next(folder for folder in path.absolute().parents if folder.is_dir()))
    with tempfile.TemporaryDirectory(dir=there, prefix=".download-") as folder:
        draft = Path(folder, path.name)
        try:
            gdown(str(entry.gdrive_id), draft)
            with opened(draft) as (file, _):
                weight_files.read(file, draft)
        except (OSError, InvalidInput) as error:
            reason = str(error).replace(f"{folder}/", "")
            raise InvalidInput(
                f"the weights of {entry.link} are not on this machine and could not be downloaded "
                f"({reason}). Fetch {entry.address} (Google Drive id {entry.gdrive_id}) with a "
                f"browser and put the file at {path} (.pth and .safetensors do as well)"
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, path)
    return path


# gdown is how RobustBench fetches its files. It waits for ever on a silent connection, and a process
# can be ended. Its progress goes to stderr; what went wrong is all of stdout.
_GDOWN = """
import functools, sys, gdown, requests
waits = functools.partialmethod(requests.Session.request, timeout=float(sys.argv[3]))
requests.Session.request = waits
try:
    gdown.download(id=sys.argv[1], output=sys.argv[2], use_cookies=False)
except (requests.ConnectionError, requests.Timeout) as error:
    silent = f"nothing arrived for {sys.argv[3]} seconds" if "timed out" in str(error) else ""
    sys.exit(print(silent or "drive.google.com cannot be reached") or 1)
except Exception as error:
    sys.exit(print(type(error).__name__, " ".join(str(error).split())[:300]) or 1)
"""


def gdown(gdrive_id: str, target: Path) -> None:
    """Downloads a file of Google Drive. Raises OSError where it fails, stalls or takes hours."""
    command = [sys.executable, "-c", _GDOWN, gdrive_id, str(target), str(STALL)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"not complete after {LONGEST // 3600} hours") from None
    if done.returncode or not target.is_file():
        raise OSError(done.stdout.strip() or "gdown left no file")


# ---------------------------------------------------------------- how entries were trained


@dataclass(frozen=True)
class Training:
    """How an entry's network was trained, where that is published."""

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
