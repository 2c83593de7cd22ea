"""What one checkout answers, section by section, as JSON: run inside the checkout that is asked.

Only entry points that a move must not change are used: commands, `bench.evaluate`, `bench.AutoAttack`,
`bench.load_model`, `bench.schema`, `bench.protocols`, `bench.datasets`, `awp_train.presets`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answers = dict[str, str]
PYTHON = sys.executable
NETWORKS = (  # folder under results/, images
    ("digits/linf-0.15/digits-at-s0-last", 60),
    ("digits/linf-0.15/digits-at-awp-s0-last", 60),
    ("digits/linf-0.15/digits-trades-s0-last", 60),
    ("digits/linf-0.15/digits-mart-awp-s0-last", 60),
    ("fashion_mnist/linf-0.1/fashion_mnist-subset-at-s0-last", 24),
    ("fashion_mnist/linf-0.1/fashion_mnist-subset-at-awp-s0-last", 24),
)
# What of a record may differ between two runs of one commit.
_TIMES = {"created", "seconds", "environment"}


def digest(value: Any) -> str:
    """12 hex digits of bytes, text, or anything JSON holds."""
    if not isinstance(value, bytes):
        value = (value if isinstance(value, str) else json.dumps(value, sort_keys=True)).encode()
    return hashlib.sha256(value).hexdigest()[:12]


def timeless(value: Any) -> Any:
    """JSON without what a clock or a machine says."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in _TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def command(*words: str, limit: float = 600) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python -m ...` in this checkout."""
    done = subprocess.run(
        [PYTHON, "-m", *words], capture_output=True, text=True, timeout=limit, check=False
    )
    return done.returncode, done.stdout, done.stderr


# ---------------------------------------------------------------- sections


def protocols(_: Path) -> Answers:
    """Every protocol, norm and class count: the ids, or the message that refuses it."""
    from bench.protocols import PROTOCOL_NAMES, protocol
    from bench.schema import InvalidInput

    found = {}
    for name in PROTOCOL_NAMES:
        for norm in ("linf", "l2", "l1"):
            for classes in (2, 3, 4, 10, 100):
                try:
                    made = protocol(name, norm=norm, classes=classes)  # type: ignore[arg-type]
                    said = " ".join([made.protocol_id, *(c.column_id for c in made.columns)])
                except InvalidInput as error:
                    said = str(error)
                found[f"{name} {norm} {classes}"] = said
    return found


def tables(folder: Path) -> Answers:
    """Every export of the committed records."""
    found = {"check": str(command("bench", "table", "--check")[0])}
    for kind in ("md", "csv", "json", "latex", "bibtex", "html", "robustbench", "hugging-face"):
        status, out, _ = command("bench", "table", "--format", kind, "--out", str(folder / kind))
        files = sorted(p for p in folder.glob(f"{kind}*") if p.is_file())
        files += sorted(p for p in (folder / kind).rglob("*") if p.is_file())
        said = digest(out.replace(str(folder), ""))  # where it was written to
        found[kind] = f"{status} {said} {[digest(p.read_bytes()) for p in files]}"
    return found


def studies(folder: Path) -> Answers:
    """Every study made again from its committed records, into a copy of the results."""
    out = folder / "results"
    subprocess.run(["cp", "-r", "results", str(out)], check=True)
    found = {}
    for path in sorted(out.glob("studies/*.csv")):
        status, said, _ = command("awp_train", "study", path.stem, "--out", str(out))
        found[path.stem] = f"{status} {digest(said)}"
    for path in sorted(out.glob("studies/*")):
        found[path.name] = digest(path.read_bytes())
    return found


def attacks(_: Path) -> Answers:
    """Every attack, norm and loss on two networks, bit for bit, and the drop-in class."""
    import torch

    from bench import AutoAttack, evaluate, load_model
    from bench.datasets import load
    from bench.schema import AttackSpec, Column, Protocol

    torch.set_num_threads(1)
    digits = load("digits", n=24)
    trained = load_model(Path("results") / NETWORKS[0][0])
    fresh = _fresh_network()
    found = {}
    with torch.no_grad():  # all its answers are right, so that every image is attacked
        own = fresh(digits.x).argmax(1)
    for name, model, labels in (("trained", trained, digits.labels), ("fresh", fresh, own)):
        for threat in ("linf:0.1", "l2:0.5", "l1:4"):
            for spec in _specs(threat.partition(":")[0]):
                attack = AttackSpec.model_validate(spec)
                column = Column(name="guarded", attacks=(attack,))
                asked = Protocol(name="guard", version=1, columns=(column,))
                record = evaluate(model, digits.images, labels, threat=threat, protocol=asked)
                answer = timeless(record.model_dump(mode="json", exclude={"id", "card"}))
                found[f"{name} {threat} {attack}"] = digest(answer)
    for norm, eps in (("Linf", 0.1), ("L2", 0.5), ("L1", 4.0)):
        adversary = AutoAttack(trained, norm=norm, eps=eps, version="standard", verbose=False)
        adversary.attacks_to_run = ["apgd-ce", "apgd-t"]
        x_adv = adversary.run_standard_evaluation(digits.x, digits.labels, bs=24)
        found[f"AutoAttack {norm}"] = digest(x_adv.numpy().tobytes())
    return found


def _fresh_network() -> Any:
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(72, 10),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator).abs_() * 0.3 - 0.1)
    return net.eval()


def _specs(norm: str) -> Iterator[dict[str, Any]]:
    def spec(name: str, **params: Any) -> dict[str, Any]:
        return {"name": name, "params": params}

    if norm != "l1":
        yield spec("fgsm", relative_step=1.0)
        for start in ("uniform", "clean"):
            for iterate in ("any", "last"):
                for loss in ("cross_entropy", "margin"):
                    yield spec("pgd", steps=6, relative_step=0.25, restarts=2, start=start,
                               iterate=iterate, loss=loss)  # fmt: skip
        for name in ("apgd-dlr", "apgd-margin"):
            yield spec(name, steps=12, restarts=2)
        yield spec("fab", steps=6, restarts=2)
        yield spec("apgd-ce", steps=6, restarts=1, samples=3)
        yield spec("spsa", steps=4, lr=0.01, delta=0.001, samples=8)
    large = {"large_steps": True} if norm == "l1" else {}
    yield spec("apgd-ce", steps=12, restarts=2, **large)
    yield spec("apgd-t", steps=12, restarts=1, targets=3, **large)
    yield spec("fab-t", steps=6, restarts=1, targets=3)
    yield spec("square", queries=60, p_init=0.8, restarts=1)
    yield spec("fmn", steps=12, step=1.0, final_step=0.01, gamma=0.05, final_gamma=0.001)


def evaluations(folder: Path) -> Answers:
    """Committed networks measured again: every bit, every flag, the evidence."""
    found = {}
    for place, n in NETWORKS:
        out = folder / "records"
        status, said, _ = command(
            "bench", "evaluate", f"results/{place}", "--n", str(n), "--out", str(out), "--json",
            "--workers", "1", "--protocol", "standard",
        )  # fmt: skip
        answers = timeless(json.loads(said)) if not status else []
        for answer in answers:
            answer.pop("records")
        found[place] = f"{status} {json.dumps(answers)}"
    for path in sorted((folder / "records").rglob("*.json")):
        if len(path.stem) == 16:
            found[path.stem] = digest(timeless(json.loads(path.read_text())))
    return found


_SHORT = "--epochs 3 --n_train 60 --n_validation 40 --batch 20 --log_images 40 --attack_steps 2"
_SHORT += " --log_attack_steps 2"
_AWP = " --awp.warm_up 1"
RUNS = {
    "natural": "digits-natural",
    "at": "digits-at",
    "trades": "digits-trades",
    "mart": "digits-mart",
    "at-awp": f"digits-at-awp{_AWP}",
    "at-rwp": f"digits-at-rwp{_AWP}",
    "trades-awp": f"digits-trades-awp{_AWP}",
    "mart-awp": f"digits-mart-awp{_AWP}",
    "filter": f"digits-at-awp{_AWP} --awp.norm filter",
    "global": f"digits-at-awp{_AWP} --awp.norm global --awp.steps 2",
    "alternating": f"digits-at-awp{_AWP} --awp.alternations 2 --awp.exclude 12.weight",
    "ema": f"digits-at-awp{_AWP} --averaging ema --averaging_decay 0.9",
    "swa": f"digits-at-awp{_AWP} --averaging swa",
    "bf16": f"digits-at-awp{_AWP} --precision bf16",
    "mixup": "digits-at --mixup 1.0 --cutout 2 --augment crop-flip --l1 0.00001",
    "cosine": "digits-at --schedule cosine --nesterov true --craft_mode train",
    "l2": "digits-at --threat l2:0.5 --schedule cyclic --craft_folded true",
}


def training(folder: Path) -> Answers:
    """Short runs of every method and form of AWP: weights and curve; one is killed and resumed."""
    where = ["--out", str(folder / "out"), "--runs", str(folder / "runs"), "--yes"]
    found = {}
    for name, text in RUNS.items():
        words = ["awp_train", "run", *text.split(), *_SHORT.split(), "--name", name, *where]
        status, _, said = command(*words)
        found[name] = _trained(folder, name, status, said)
    words = ["awp_train", "run", *RUNS["at-awp"].split(), *_SHORT.split(), "--name", "killed"]
    words += ["--epochs", "40", *where]
    _killed(folder, words)
    status, _, said = command("awp_train", "resume", "killed", *where)
    found["killed"] = _trained(folder, "killed", status, said)
    return found


def _killed(folder: Path, words: list[str]) -> None:
    """Starts a run and ends it with kill -9 once a state of it is on disk."""
    with subprocess.Popen([PYTHON, "-m", *words], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if any(p.suffix == ".jsonl" or "state" in p.name for p in folder.rglob("killed/*")):
                time.sleep(0.5)
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def _trained(folder: Path, name: str, status: int, said: str) -> str:
    if status:
        return f"{status} {said.strip().splitlines()[-1:]}"
    parts = []
    for kept in ("best", "last"):
        checkpoint = folder / "out" / f"{name}-{kept}"
        card = json.loads((checkpoint / "card.json").read_text())
        card.pop("commit")
        lines = map(json.loads, (checkpoint / "train.jsonl").read_text().splitlines())
        parts.append(digest([card, [timeless(line) for line in lines]]))
    return " ".join(parts)


def presets(_: Path) -> Answers:
    """The configuration behind every preset name of the base, named by its fixture."""
    from awp_train.presets import find

    names = json.loads(Path(os.environ["GUARD_PRESETS"]).read_text())
    return {name: digest(json.loads(find(name).config.model_dump_json())) for name in sorted(names)}


def proofs(_: Path) -> Answers:
    """What verify, compare and doctor say of committed records."""
    place = f"results/{NETWORKS[1][0]}"
    asked = {
        "verify": ("bench", "verify", place, "--json"),
        "doctor": ("bench", "doctor", place, "--json"),
        "compare": ("bench", "compare", f"results/{NETWORKS[0][0]}", place, "--json"),
    }
    found = {}
    for name, words in asked.items():
        status, out, _ = command(*words)
        found[name] = f"{status} {digest(timeless(json.loads(out)) if out.strip() else out)}"
    return found


def documented(_: Path) -> Answers:
    """Every command line of the base's pages: its exit status, where it ends offline in two minutes."""
    found = {}
    for line in _command_lines(Path(os.environ["GUARD_PAGES"])):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], capture_output=True, check=False)
            found[line] = f"parsed {done.returncode}"
            continue
        try:
            found[line] = str(command(*words[2:], limit=120)[0])
        except subprocess.TimeoutExpired:
            found[line] = "longer than two minutes"
    return found


_INLINE = re.compile(r"`((?:python -m (?:bench|awp_train)|make) [^`]+)`")
_SHOWN = re.compile(r"^(?:\$ )?((?:\.venv/bin/)?python -m (?:bench|awp_train) .+|make .+)$", re.M)
# Not repeated here: they open a server, take hours, or change what is committed.
_LEFT = ("leaderboard", "train-all", "study", "choose", "withdraw", "published add", "demo")


def _command_lines(root: Path) -> list[str]:
    found: dict[str, None] = {}
    for page in (root / "README.md", root / "CONTRIBUTING.md", *sorted(root.glob("docs/*.md"))):
        text = page.read_text()
        for line in (*_INLINE.findall(text), *_SHOWN.findall(text)):
            line = line.replace(".venv/bin/python", "python")
            placeholder = re.search(r"…|\.\.\.|\|\s|[A-Z]{3,}(?![A-Za-z=])|file\.py", line)
            if not placeholder and not any(word in line for word in _LEFT):
                found[line] = None
    return list(found)


SECTIONS: dict[str, Callable[[Path], Answers]] = {
    f.__name__: f
    for f in (
        protocols, presets, tables, studies, attacks, evaluations, training, proofs, documented,
    )
}  # fmt: skip


def main(target: Path, names: list[str]) -> None:
    """Asks the sections and writes their answers after each."""
    answers: dict[str, Answers] = {}
    for name in names or list(SECTIONS):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                answers[name] = SECTIONS[name](Path(folder))
            except Exception as error:  # the other sections are still asked
                answers[name] = {"raised": f"{type(error).__name__}: {error}"}
        print(f"{Path.cwd().name}: {name}, {time.monotonic() - started:.0f} s", file=sys.stderr)
        target.write_text(json.dumps(answers, indent=1, sort_keys=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
