"""verify: what is proven, what is missing, what a second attack finds, and with which power."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import datasets, evidence, table, verify
from bench.__main__ import main
from bench.attacks import Attack
from bench.attacks.geometry import distance
from bench.evidence import Perturbations
from bench.measure import evaluate, shards, sweep
from bench.records import proven, store
from bench.records.proven import NAME
from bench.schema import AttackSpec, Column, EvaluationRecord, InvalidInput, ModelCard, Protocol
from bench.schema.packing import pack_floats, pack_ints
from bench.sources import checkpoint, zoo
from bench.verify import Distances, Rounded, reattack
from tests import conftest
from tests.board.board_records import prove, rewrite

N, WRONG = 90, 3  # images of the toy set, and how many of them are clean errors
EPS = 0.01


def column(name: str, **params: int | float | str) -> Column:
    return Column(name=name, attacks=(AttackSpec(name=name, params=params),))


WEAK = Protocol(name="weak", version=1, columns=(column("fgsm", relative_step=1.0),))
SEARCH = Protocol(name="search", version=1, columns=(*WEAK.columns, column("pgd", steps=5)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return conftest.toy(tmp_path_factory.mktemp("toy"), N, WRONG)


@pytest.fixture(scope="module")
def images(toy: Path) -> str:
    return f"arrays:{toy.parent}/data"


@pytest.fixture(scope="module")
def found(toy: Path, images: str) -> dict[str, evaluate.Measurement]:
    """What both protocols find of the toy network."""
    model, card = checkpoint.load(toy)
    data = datasets.load(images, name="toy-images")
    return {
        protocol.name: evaluate.measure(
            model, data.images, data.labels, threat=f"linf:{EPS}", protocol=protocol, card=card,
            dataset=data.name, split=data.split,
        )
        for protocol in (WEAK, SEARCH)
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(toy: Path, found: dict[str, evaluate.Measurement]) -> dict[str, Path]:
    """The records of the toy network under both protocols, with everything beside them."""
    return {name: sweep.keep(each, toy, toy.parent / "results") for name, each in found.items()}


@pytest.fixture
def recorded(measured: dict[str, Path], tmp_path: Path) -> Callable[[Protocol], Path]:
    """A record under a protocol, in a folder of the test's own."""

    def copy(protocol: Protocol) -> Path:
        path = measured[protocol.name]
        return shutil.copytree(path.parent, tmp_path / "toy") / path.name

    return copy


def held(path: Path, images: str) -> verify.Materials:
    return verify.gather(path, dataset=images)


def verified(path: Path, images: str, again: int = 0) -> verify.Verification:
    m = held(path, images)
    plan = reattack.plan(m.record, images=again) if again else None
    return verify.check(m.record, m.model, m.data, m.proofs, again=plan)


def changed(record: EvaluationRecord, name: str, **update: object) -> EvaluationRecord:
    """The record with fields of a column's outcome, or of the column, replaced."""
    raw = record.model_dump()
    where = raw["columns"][name]
    for key, value in update.items():
        (where if key in where else where["outcomes"][0])[key] = value
    return EvaluationRecord.model_validate(raw)


# ---------------------------------------------------------------- evidence


def test_everything_is_proven_and_said(recorded, images):
    path = recorded(SEARCH)
    found = verified(path, images, again=20)
    record = found.record
    assert found.proven
    assert found.has_evidence
    assert found.clean_agrees == N
    for name, proof in found.columns.items():
        assert proof.proven == proof.broken == sum(o.broken for o in record.columns[name].outcomes)
        assert 0 < proof.largest_perturbation <= EPS + 1e-6
    assert found.reattack is not None
    assert found.reattack.attacked == 20


def test_tampered_evidence_is_refused_and_named(recorded, images, capsys):
    path = recorded(WEAK)
    proof = path.with_suffix(".evidence.npz")
    raw = proof.read_bytes()
    proof.write_bytes(raw[:-30] + bytes([raw[-30] ^ 1]) + raw[-29:])
    with pytest.raises(InvalidInput, match=r"no evidence at nowhere\.npz"):
        verify.gather(path, dataset=images, proof=Path("nowhere.npz"))
    assert main(["verify", str(path), "--dataset", images]) == 2
    said = capsys.readouterr()
    assert str(proof) in said.err
    assert "sha256 differs" in said.err
    assert not said.out


@pytest.mark.parametrize("part", ["clean images", "outside the ball", "other class"])
def test_evidence_that_does_not_hold_proves_nothing(part, recorded, images):
    path = recorded(SEARCH)
    m = held(path, images)
    name, proof, record = "pgd", m.proofs["pgd"], m.record
    if part == "clean images":
        proof = dataclasses.replace(proof, steps=0 * proof.steps)
    elif part == "outside the ball":
        proof = dataclasses.replace(proof, scale=np.float32(1.1) * proof.scale)
    else:
        packed = record.columns[name].outcomes[0].adversarial_predictions
        wrong = 1 + record.adversarial_predictions(name)[~record.standing(name)].max()
        broken = record.columns[name].outcomes[0].broken
        record = changed(record, name, adversarial_predictions=pack_ints(np.full(broken, wrong)))
        assert record.columns[name].outcomes[0].adversarial_predictions != packed
    found = verify.check(record, m.model, m.data, m.proofs | {name: proof})
    assert not found.proven
    assert found.columns[name].proven < found.columns[name].broken
    assert found.columns["fgsm"].proven == found.columns["fgsm"].broken
    assert all(name in problem for problem in found.problems)


def test_missing_evidence_is_said_and_the_rest_is_checked(recorded, images, capsys):
    path = recorded(SEARCH)
    path.with_suffix(".evidence.npz").unlink()
    call = ["verify", str(path), "--dataset", images, "--reattack", "10"]
    assert main(call) == 1
    text = capsys.readouterr().out
    assert main([*call, "--json"]) == 1
    (answer,) = json.loads(capsys.readouterr().out)
    record = store.read(path)
    broken = sum(o.broken for c in record.columns.values() for o in c.outcomes)
    assert f"NO EVIDENCE HERE for {broken} broken bits" in text
    assert str(record.evidence_sha256) in text
    assert f"clean: {N} of {N}" in text
    assert not answer["evidence"]
    assert not answer["proven"]
    assert [c["proven"] for c in answer["columns"].values()] == [0, 0]
    assert answer["clean_agrees"] == N
    assert answer["reattack"]["attacked"] == 10


# ---------------------------------------------------------------- the list of proven records


@pytest.fixture
def in_results(measured, tmp_path) -> Path:
    """A record where it belongs in a folder of results, with everything beside it."""
    path = measured[WEAK.name]
    root = tmp_path / "results"
    shutil.copytree(path.parents[3], root, ignore=lambda *_: [NAME])
    return root / path.relative_to(path.parents[3])


def listed(root: Path, how: str = "proven") -> list[tuple[str, str]]:
    found = proven.read(root)[0].items()
    return [(proof.record, sha256) for sha256, proof in found if proof.how == how]


def test_what_is_proven_joins_the_list_and_what_is_disproven_leaves_it(in_results, images, capsys):
    path, root = in_results, in_results.parents[3]
    call = ["verify", str(path), "--dataset", images, "--no-reattack"]
    assert main(call) == 0
    below = path.relative_to(root).as_posix()
    assert listed(root) == [(below, store.sha256_of(path))]
    assert main(call) == 0
    assert len(listed(root)) == 1
    record = store.read(path)
    beside = path.with_suffix(".evidence.npz")
    sound = beside.read_bytes()
    beside.unlink()  # as where it was removed on purpose: what was proven once stays so
    assert main(call) == 1
    assert listed(root) == [(below, store.sha256_of(path))]
    proofs = evidence.from_bytes(sound)
    empty = {name: Perturbations.none(proof.exact.shape[1:]) for name, proof in proofs.items()}
    beside.write_bytes(evidence.to_bytes(empty))
    rewrite(path, evidence_sha256=store.sha256_of(beside))
    assert store.read(path).id == record.id
    assert main(call) == 1
    assert listed(root) == []
    assert "NOT PROVEN" in capsys.readouterr().out


def test_what_is_measured_is_listed_as_that_until_verify_says_more(measured, images, tmp_path):
    path = measured[WEAK.name]
    root = shutil.copytree(path.parents[3], tmp_path / "results")
    path = root / path.relative_to(path.parents[3])
    line = (path.relative_to(root).as_posix(), store.sha256_of(path))
    other = [each for each in listed(root, "measured") if each != line]
    assert (len(other), listed(root)) == (1, [])
    rows = [row for group in table.build(root).groups for row in group.rows]
    assert [(row.known, row.proven) for row in rows] == [(True, False)] * 2
    call = ["verify", str(path), "--dataset", images, "--no-reattack"]
    beside = path.with_suffix(".evidence.npz")
    sound = beside.read_bytes()
    beside.unlink()
    assert main(call) == 1
    assert set(listed(root, "measured")) == {line, *other}  # missing evidence says nothing
    beside.write_bytes(sound)
    assert main(call) == 0
    assert (listed(root, "measured"), listed(root)) == (other, [line])


def test_what_is_disproven_is_not_known_whoever_measured_it(in_results, images):
    path, root = in_results, in_results.parents[3]
    beside = path.with_suffix(".evidence.npz")
    proofs = evidence.from_bytes(beside.read_bytes())
    empty = {name: Perturbations.none(proof.exact.shape[1:]) for name, proof in proofs.items()}
    beside.write_bytes(evidence.to_bytes(empty))
    rewrite(path, evidence_sha256=store.sha256_of(beside))
    prove(root, store.read(path), how="measured")
    assert len(listed(root, "measured")) == 1
    assert main(["verify", str(path), "--dataset", images, "--no-reattack"]) == 1
    assert proven.read(root)[0] == {}


@pytest.mark.parametrize("lay", ["nothing", "a copy", "another card", "a list that is a link"])
def test_what_is_measured_again_is_known_as_far_as_it_was_measured(
    lay, found, toy, tmp_path, caplog
):
    """A record that lay there keeps its card, which a measurement says nothing of."""
    answer, root = found[WEAK.name], tmp_path / "results"
    path = sweep.keep(answer, toy, root)
    line = (path.relative_to(root).as_posix(), store.sha256_of(path))
    assert listed(root, "measured") == [line]
    if lay == "nothing":
        return
    (root / NAME).unlink()
    if lay == "another card":
        rewrite(path, card=json.loads(path.read_text())["card"] | {"control_of": "another"})
    if lay == "a list that is a link":
        (root / NAME).symlink_to("elsewhere")
    assert sweep.keep(answer, toy, root) == path
    assert listed(root, "measured") == ([line] if lay == "a copy" else [])
    assert ("is not in the list" in caplog.text) == (lay != "a copy")


def test_labels_that_are_not_the_images_are_not_proven(in_results, images, capsys):
    path, root = in_results, in_results.parents[3]
    record = store.read(path)
    place = int((~record.clean_correct).argmax())
    labels, clean = record.label_array, record.clean_prediction_array
    other = (set(range(10)) - {labels[place], clean[place]}).pop()
    labels[place] = other  # still a clean error: no bit contradicts it
    rewrite(path, labels=pack_ints(labels))
    assert main(["verify", str(path), "--dataset", images, "--no-reattack"]) == 1
    assert "its labels are not those of the images" in capsys.readouterr().out
    assert listed(root) == []


def test_what_is_measured_here_is_proven_at_once(toy, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = sweep.make_job(
        toy, dataset=images, dataset_name="toy-images", threat=f"linf:{EPS}", protocol="only-fgsm",
        device="cpu", out=tmp_path / "results",
    )  # fmt: skip
    outcome = sweep.measure(job, lambda *news: None)
    below = outcome.path.relative_to(job.out).as_posix()
    assert listed(job.out) == [(below, store.sha256_of(outcome.path))]
    (job.out / NAME).unlink()  # as where a kill came between the record and its proof
    assert not sweep.measure(job, lambda *news: None).measured
    assert listed(job.out) == [(below, store.sha256_of(outcome.path))]
    outcome.path.with_suffix(".evidence.npz").unlink()
    (job.out / NAME).unlink()
    sweep._prove(job, outcome.path, checkpoint.load_model(toy), sweep.examples(job))
    assert listed(job.out) == []


def test_a_record_that_lies_elsewhere_is_in_no_list(recorded, images, tmp_path):
    path = recorded(WEAK)
    assert main(["verify", str(path), "--dataset", images, "--no-reattack"]) == 0
    assert not [*tmp_path.rglob(NAME)]
    assert not (tmp_path.parent / NAME).exists()


def test_a_list_that_cannot_be_written_is_said_and_the_proof_told(in_results, images, capsys):
    path, root = in_results, in_results.parents[3]
    (root / NAME).symlink_to("elsewhere")
    assert main(["verify", str(path), "--dataset", images, "--no-reattack"]) == 0
    said = capsys.readouterr()
    assert "is a link, expected a file" in said.err
    assert "broken bits proven" in said.out
    assert not (root / "elsewhere").exists()


def test_other_weights_are_refused(recorded, images, toy, tmp_path):
    path = recorded(WEAK)
    model, card = checkpoint.load(toy)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    checkpoint.save(tmp_path / "other", model, card)
    with pytest.raises(InvalidInput, match="other weights"):
        verify.gather(path, dataset=images, weights=tmp_path / "other")


def test_weights_of_the_zoo_are_fetched_by_their_link(recorded, images, toy, monkeypatch):
    path = recorded(WEAK)
    raw = json.loads(path.read_text())
    raw["card"]["link"] = "robustbench:toy/Linf/Nobody2020"
    rewrite(path, **raw)
    (path.parent / checkpoint.WEIGHTS).unlink()
    asked: list[tuple[str, Path]] = []

    def load(entry: zoo.Entry, *, device: str) -> tuple[torch.nn.Module, ModelCard]:
        asked.append((entry.link, entry.root))
        return checkpoint.load(toy, device=device)

    monkeypatch.setattr(zoo, "load", load)
    known = {("toy", "Linf"): {"Nobody2020": {"gdrive_id": "x", "model": None}}}
    monkeypatch.setattr(zoo, "_models", lambda: known)
    monkeypatch.setattr(zoo, "_refusal", lambda *asked: "")
    assert verified(path, images).proven
    verify.gather(path, dataset=images, zoo_root=Path("elsewhere"))
    link = "robustbench:toy/Linf/Nobody2020"
    assert asked == [(link, zoo.ROOT), (link, Path("elsewhere"))]
    raw["card"]["link"] = ""
    rewrite(path, **raw)
    with pytest.raises(InvalidInput, match="--weights"):
        verify.gather(path, dataset=images)


# ---------------------------------------------------------------- rounding and distances


def test_survivors_of_rounding_are_counted_again(recorded, images):
    path = recorded(WEAK)
    m = held(path, images)
    proof = m.proofs["fgsm"]
    rounded = (proof.decode(m.data.x) * 255).round() / 255
    index = torch.from_numpy(proof.index).long()
    survive = int((m.model(rounded).argmax(1) != m.data.labels[index]).sum())
    right = changed(m.record, "fgsm", uint8_survivors=survive)
    found = verify.check(right, m.model, m.data, m.proofs)
    assert found.proven
    assert found.columns["fgsm"].uint8 == Rounded(len(index), survive, survive)
    assert "survive rounding to 256 levels" in verify.summary(found)
    wrong = changed(m.record, "fgsm", uint8_survivors=survive - 1)
    (problem,) = verify.check(wrong, m.model, m.data, m.proofs).problems
    assert f"the record says {survive - 1}" in problem
    silent = changed(m.record, "fgsm", uint8_survivors=None)  # as records of version 1 are
    assert verify.check(silent, m.model, m.data, m.proofs).columns["fgsm"].uint8 is None


@pytest.fixture(params=[WEAK])
def with_distances(request, recorded, images):
    """(materials, distances (N,) that are consistent with the record and its evidence)."""
    m = held(recorded(request.param), images)
    proof, said = m.proofs["fgsm"], np.full(N, np.inf)
    x = m.data.x[torch.from_numpy(proof.index).long()]
    said[proof.index] = distance(x, proof.decode(m.data.x), "linf").numpy()
    said[~m.record.clean_correct] = 0
    return m, said


def check_distances(m, said):
    record = changed(m.record, "fgsm", distances=pack_floats(said))
    found = verify.check(record, m.model, m.data, m.proofs)
    return found.columns["fgsm"].distances, found


def test_distances_are_proven_where_the_evidence_is_that_near(with_distances):
    m, said = with_distances
    broken = len(m.proofs["fgsm"].index)
    assert check_distances(m, said)[0] == Distances(broken, broken, 0)
    standing = np.flatnonzero(m.record.standing("fgsm"))
    said[standing[:4]] = 2 * EPS  # seen by an attack whose points are not stored
    said[m.proofs["fgsm"].index[0]] *= 0.5
    counts, found = check_distances(m, said)
    assert counts == Distances(broken + 4, broken - 1, 0)
    assert found.proven  # not proven is said, and is no contradiction


@pytest.mark.parametrize("with_distances", [SEARCH], indirect=True)
def test_what_another_column_broke_may_lie_nearer_than_the_ball(with_distances):
    """A distance is over all columns: one column's own images need not have fallen to it."""
    m, said = with_distances
    left = np.flatnonzero(m.record.standing("fgsm") & ~m.record.worst_case_standing)
    assert len(left)
    said[left] = 0.99 * EPS
    counts, found = check_distances(m, said)
    assert counts.contradicted == 0 and found.proven


@pytest.mark.parametrize("lie", ["farther than seen", "inside the ball", "zero", "clean error"])
def test_contradicted_distances_are_named(lie, with_distances):
    m, said = with_distances
    standing = np.flatnonzero(m.record.standing("fgsm"))
    if lie == "farther than seen":
        said[m.proofs["fgsm"].index[0]] = np.inf
    elif lie == "inside the ball":
        said[np.flatnonzero(m.record.worst_case_standing)[0]] = EPS / 2
    elif lie == "zero":
        said[standing[0]] = 0
    else:
        said[0] = 0.01
    counts, found = check_distances(m, said)
    assert counts.contradicted == 1
    assert "1 distances are contradicted" in found.problems[0]


# ---------------------------------------------------------------- the second attack


def test_second_attack_finds_what_a_weak_record_left(recorded, images, capsys):
    path = recorded(WEAK)  # FGSM alone; APGD breaks more
    call = ["verify", str(path), "--dataset", images, "--reattack", "30"]
    assert main([*call, "--json"]) == 0  # a warning, not a failure
    (answer,) = json.loads(capsys.readouterr().out)
    again, record = answer["reattack"], store.read(path)
    assert answer["proven"]
    assert [a.split("(")[0] for a in again["attacks"]] == ["apgd-ce", "apgd-t"]
    assert again["standing"] == record.worst_case_standing.sum()
    drawn = set(again["images"])
    assert len(drawn) == again["attacked"] == 30
    assert record.worst_case_standing[list(drawn)].all()
    found = {b["image"]: b["distance"] for b in again["broken"]}
    assert len(found) >= 3
    assert set(found) <= drawn
    assert all(0 < d <= EPS + 1e-6 for d in found.values())
    assert len(found) <= again["breakable_at_most"] <= again["standing"] - (30 - len(found))
    text = "\n".join(reattack.lines(reattack.Reattack(reattack.plan(record), 30, found)))
    assert f"WARNING: {len(found)} of 30 standing images were broken" in text
    assert f"too high by at least {len(found)} images" in text
    for image in found:
        assert f"image {image} at distance" in text


def test_a_crash_of_the_second_attack_is_a_failure(recorded, images, monkeypatch, capsys):
    path = recorded(WEAK)

    def crashes(*a, **k):
        raise RuntimeError("out of luck")

    monkeypatch.setitem(shards.ATTACKS, "pgd", Attack(crashes))
    assert main(["verify", str(path), "--dataset", images, "--attack", "pgd20", "--json"]) == 1
    (answer,) = json.loads(capsys.readouterr().out)
    assert "the re-attack failed: pgd raised RuntimeError: out of luck" in answer["problems"][0]
    assert answer["columns"]["fgsm"]["proven"] == answer["columns"]["fgsm"]["broken"] > 0


def test_seeds_are_fresh_and_draws_repeat(recorded):
    record = store.read(recorded(WEAK))
    first, same = reattack.plan(record, images=20), reattack.plan(record, images=20)
    other = reattack.plan(record, images=20, seed=1)
    assert first.index.tolist() == same.index.tolist()
    assert first.attack_seed == same.attack_seed
    assert first.index.tolist() != other.index.tolist()
    assert len({first.attack_seed, other.attack_seed, record.seed}) == 3
    # The same question with the very seed that would be derived: still another one.
    taken = record.model_copy(update={"seed": first.attack_seed})
    assert reattack.plan(taken, images=20).attack_seed != first.attack_seed
    # Who is drawn does not depend on m: a larger sample contains the smaller one.
    assert set(first.index) <= set(reattack.plan(record, images=40).index)


def test_the_attack_is_that_of_the_strongest_column_or_as_asked(recorded):
    record = store.read(recorded(SEARCH))
    assert reattack.plan(record).column.attacks == SEARCH.columns[1].attacks
    assert reattack.plan(record, attack="fgsm").column == WEAK.columns[0]
    assert reattack.plan(record, attack="cw").column.name == "cw"
    with pytest.raises(InvalidInput, match="Did you mean 'pgd20'"):
        reattack.plan(record, attack="pgd2")
    with pytest.raises(InvalidInput, match="at least 1 image"):
        reattack.plan(record, images=-1)


def test_no_second_attack_where_none_is_wanted_or_nothing_stands(recorded, images, capsys):
    path = recorded(WEAK)
    assert main(["verify", str(path), "--dataset", images, "--no-reattack", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["reattack"] is None
    m = held(path, images)
    plan = dataclasses.replace(reattack.plan(m.record), population=0, index=np.zeros(0, int))
    found = reattack.run(plan, m.record, m.model, m.data)
    assert (found.power, found.at_most) == (0, 0)
    assert "no image stands" in reattack.lines(found)[0]


def test_power_counts_whole_images(recorded):
    """5 % of 62 standing images are 4 images, and the sample of 30 holds one of them so often."""
    record = store.read(recorded(WEAK))
    plan = dataclasses.replace(reattack.plan(record), population=62)
    miss = np.prod([(32 - i) / (62 - i) for i in range(4)])
    assert reattack.Reattack(plan, 30, {}).power == pytest.approx(1 - miss)


def test_evidence_survives_the_way_through_bytes(recorded):
    raw = recorded(WEAK).with_suffix(".evidence.npz").read_bytes()
    assert evidence.to_bytes(evidence.from_bytes(raw), logits=evidence.logits_in(raw)) == raw
    with pytest.raises(InvalidInput, match="here is not readable"):
        evidence.from_bytes(raw[:40], where="here")
