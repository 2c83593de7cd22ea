"""The house: a file imports only its own layer or a lower one; pages never load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# [0] no torch, [1] torch, [2] measurement, [3] entry
LAYERS = {
    "bench": {
        0: "__init__ errors frozen threat packing schema catalogue protocols intervals seeds ranks "
        "paired sequential entry index speaking results table pairs controls notation render exports "
        "digits_split board curve flag_catalogue flag_limits model_info published published_files "
        "reproduce gap training_log official_curves interrupt lock zoo_catalogue card_text one_read "
        "origins supervised verdicts study_files answers",
        1: "datasets streams attacks flags probes metamorphic strided judge evidence prepare parts "
        "parallel robustbench_repairs autoattack_settings dealing weight_sets reading "
        "code_reading identity",
        2: "checkpoint measurement shards together verify zoo proofs reattack study agreement "
        "own_model sources autoattack doctor until_sure measure_gap doubts unregistered clean_logits "
        "reuse backing",
        3: "sweep commands speed __main__",
    },
    "awp_train": {
        0: "__init__ places passes recipes families presets checks evidence listing flags studies "
        "contrasts findings retell schedule array_pickle array_npz tensorboard",
        1: "objectives folded running ranks crafting awp augment mixup update averaging sampler seeds "
        "failure validation state extra",
        2: "starting pseudo_label gap",
        3: "train stages pool cost cards choice carry_out demo official __main__",
    },
}
TORCH = {"torch", "torchvision", "safetensors", "pyautoattack", "robustbench"}
MAY_USE = {
    # The benchmark of speed stands above both packages; nothing imports it.
    "tests.speed": {"awp_train", "bench", "models"},
    "awp_train": {"awp_train", "bench", "models"},
    "bench": {"bench", "models"},
    "models": {"models", "bench"},
}


def layer_of(module: str) -> int | None:
    package, *rest = module.split(".")
    if package == "app":
        return 0
    if package == "models":
        return 1
    if package not in LAYERS:
        return None
    name = rest[0] if rest else "__init__"
    found = [n for n, names in LAYERS[package].items() if name in names.split()]
    assert found, f"{module} has no layer: add it to LAYERS"
    return found[0]


def imports(path: Path, *, all_levels: bool) -> set[str]:
    """Modules a file imports; at the top level only, or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if all_levels else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in ("bench", "awp_train", "models"):
                found |= {
                    f"{node.module}.{a.name}" for a in node.names if _is_module(node.module, a.name)
                }
    return found - {"bench", "awp_train"}


def _is_module(package: str, name: str) -> bool:
    return (ROOT / package / f"{name}.py").exists() or (ROOT / package / name).is_dir()


def sources() -> list[Path]:
    return [ROOT / "app.py", *(p for d in (*LAYERS, "models") for p in (ROOT / d).rglob("*.py"))]


def test_no_file_imports_a_higher_layer():
    for path in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        layer = layer_of(module)
        assert layer is not None
        # Entry files may import lazily downwards anyway; what counts is what a module needs to load.
        for name in imports(path, all_levels=layer > 0):
            other = layer_of(name)
            if layer == 0:
                assert name.split(".")[0] not in TORCH, f"{module} imports {name}"
            if other is not None:
                assert other <= layer, f"{module} [{layer}] imports {name} [{other}]"


def test_packages_depend_in_one_direction():
    for path in sources():
        package = path.relative_to(ROOT).parts[0]
        if path.is_relative_to(ROOT / "bench" / "speed"):
            package = "tests.speed"
        for name in imports(path, all_levels=True):
            assert package == "tests.speed" or not name.startswith("tests.speed"), path
            top = name.split(".")[0]
            if top in MAY_USE and package in MAY_USE:
                assert top in MAY_USE[package], f"{path} imports {name}"


def test_importing_layer_0_does_not_load_torch():
    modules = [f"bench.{name}" for name in LAYERS["bench"][0].split() if name != "__init__"]
    code = f"import sys, bench, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
