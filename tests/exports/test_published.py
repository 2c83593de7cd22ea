"""Published rows: nothing of the source is lost or added, and what cannot be read is named."""

from __future__ import annotations

import csv
import html
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.exports.formats import FORMATS
from bench.exports.view import View
from bench.published import LIKELY, MARK, Published, PublishedRow, beside
from bench.published.files import add, load, model_info_of_row, read_model_info
from bench.records.store import Collection
from bench.schema import InvalidInput, ThreatModel
from bench.stats.intervals import wilson
from bench.table import Leaderboard

COMMITTED = Path(__file__).parents[2] / "results" / "published"
ROBUSTBENCH = "robustbench_cifar10_linf.csv"
HEADINGS = (COMMITTED / ROBUSTBENCH).read_text().splitlines()[0]
GOOD = "A2020B,Title,A et al.,V 2020,2020,WRN,8/255,False,90.00,50.0,51.00,,51,,https://e.org"
INFO = {
    "link": "https://example.org/paper",
    "name": "A title",
    "authors": "A. Author, B. Author",
    "additional_data": True,
    "number_forward_passes": 2,
    "dataset": "cifar10",
    "venue": "ICML 2024",
    "architecture": "WideResNet-28-10",
    "eps": "8/255",
    "clean_acc": "93.10",
    "reported": "71.6",
    "autoattack_acc": "71.59",
    "external": "70.00",
    "unreliable": False,
    "footnote": "A note.",
}


SHARES = INFO | {
    "clean_acc": "0.93",
    "autoattack_acc": "0.71",
    "external": None,
    "reported": "0.71",
}


def committed() -> tuple[PublishedRow, ...]:
    return load(COMMITTED).rows


def write_info(folder: Path, value: object, place: str = "cifar10/Linf/A2024Title.json") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


# ---------------------------------------------------------------- the files that are committed


def test_every_committed_line_is_a_row_with_the_digits_of_its_source():
    published = load(COMMITTED)
    assert published.notes == ()
    by_file = {
        path.name: list(csv.DictReader(path.read_text().splitlines()))
        for path in COMMITTED.glob("*.csv")
    }
    awp = by_file.pop("published_awp.csv")
    by_file.pop("likely_awp.csv")  # which adds no number
    ours = sum(line["source"].startswith("RobustBench/") for line in awp)
    assert len(published.rows) == sum(map(len, by_file.values())) + len(awp) - ours
    for name, lines in by_file.items():
        dataset, norm = name.removesuffix(".csv").split("_")[1:]
        rows = {
            row.name: row
            for row in published.rows
            if (row.dataset, row.threat.norm) == (dataset, norm) and row.title
        }
        for line in lines:
            row = rows[line["model_id"]]
            assert (str(row.clean), str(row.robust)) == (line["clean_acc"], line["autoattack_acc"])
            assert row.standing == Decimal(line["best_known_robust_acc"])
            assert (row.link, row.authors) == (line["link"], line["authors_short"])
    awp_values = sorted(
        (line["robust_accuracy_percent"], line["source"]) for line in awp
        if not line["source"].startswith("RobustBench/")
    )  # fmt: skip
    read = [(str(r.robust), r.source) for r in published.rows if not r.title]
    assert sorted(read) == awp_values


def test_robustbench_s_entry_of_awp_stands_once_and_says_that_it_is_awp():
    rows = [row for row in committed() if row.name == "Wu2020Adversarial"]
    assert {(row.dataset, row.threat.norm) for row in rows} == {
        ("cifar10", "linf"),
        ("cifar10", "l2"),
        ("cifar100", "linf"),
    }
    assert len(rows) == 3
    assert all(row.awp and row.title and row.method.endswith("-AWP") for row in rows)


@pytest.mark.parametrize(
    ("start", "n"),
    [
        ("RobustBench/robustbench model_info/cifar10/", 10_000),
        ("RobustBench/robustbench model_info/cifar100/", 10_000),
        ("RobustBench/robustbench model_info/imagenet/", 5_000),
        ("csdongxian/AWP@a7acf5d AT_AWP/logs/svhn_linf", 26_032),
        ("davidstutz/", None),
        ("LetheSec/", None),
    ],
)
def test_intervals_are_wilson_s_where_the_source_tells_n(start, n):
    rows = [row for row in committed() if row.source.startswith(start)]
    assert rows
    for row in rows:
        assert row.n == n
        if n is None or "mean" in row.checkpoint:
            assert row.interval is None
        else:
            assert row.interval == wilson(round(n * float(row.robust) / 100), n)
            assert abs(row.interval.estimate - float(row.robust) / 100) < 0.5 / n + 1e-9


# ---------------------------------------------------------------- which stand together


def test_near_radii_stand_together_with_their_exact_radius_and_each_row_once():
    rows = committed()
    together = beside(rows)
    assert sum(map(len, together.values())) == len(rows)
    linf = together["cifar10", ThreatModel.parse("linf:8/255")]
    assert {row.threat.eps for row in linf} == {"8/255", "0.031"}
    assert all(("eps = 0.031" in row.remark) == (row.threat.eps == "0.031") for row in linf)
    asked = ("cifar10", ThreatModel.parse("linf:0.031"))
    assert len(beside(rows, [asked])[asked]) == len(linf)
    assert asked[1].eps == "0.031"
    assert ("cifar10", ThreatModel.parse("linf:4/255")) not in beside(rows, [asked])


def test_autoattack_is_never_mixed_with_weaker_attacks():
    for rows in beside(committed()).values():
        attacks = [row.attack for row in rows]
        assert len(dict.fromkeys(attacks)) == 1 + sum(
            a != b for a, b in zip(attacks, attacks[1:], strict=False)
        )
        assert "AutoAttack" not in attacks[attacks.count("AutoAttack") :]
        first = [row.standing for row in rows if row.attack == attacks[0]]
        assert first == sorted(first, reverse=True)


# ---------------------------------------------------------------- AWP that is likely

SOURCE = "owner/code@1234567 train.py --awp-gamma 0.005, arXiv 2210.09852"
LIKELY_LINE = "cifar10,Linf,A2020B,owner/code,1234567,train.py,--awp-gamma 0.005,2210.09852"
LIKELY_HEADINGS = (COMMITTED / "likely_awp.csv").read_text().splitlines()[0]


def marked(folder: Path, *lines: str, row: str = GOOD) -> Published:
    """What is read of one row of RobustBench's and these lines of likely_awp.csv."""
    folder.mkdir(exist_ok=True)
    (folder / ROBUSTBENCH).write_text(f"{HEADINGS}\n{row}\n")
    (folder / "likely_awp.csv").write_text("\n".join([LIKELY_HEADINGS, *lines]) + "\n")
    return load(folder)


def test_the_committed_likely_rows_are_named_by_their_source_and_count_as_awp_nowhere():
    rows = [row for row in committed() if row.awp_likely]
    assert sorted({row.name.split("_")[0] for row in rows}) == [
        "Addepalli2021Towards",
        "Addepalli2022Efficient",
        "Cui2023Decoupled",
    ]
    assert len(rows) == 11
    for row in rows:
        assert row.awp is None
        assert row.texts["AWP"] == "likely"
        assert row.remark.startswith(f"AWP {LIKELY} ({row.awp_source})")
        assert row.link.rpartition("/")[2] in row.awp_source  # the paper of the row
        assert "AWP" not in row.method
    # The code of these offers AWP, or is not published; nobody says that they were trained with it.
    for name in ("Jia2022LAS-AT_34_10", "Cui2023Decoupled_WRN-28-10"):
        assert {row.texts["AWP"] for row in committed() if row.name == name} == {"not stated"}


def test_a_mark_moves_no_number_and_a_statement_beats_it(tmp_path):
    (row,) = marked(tmp_path / "a", LIKELY_LINE).rows
    (bare,) = marked(tmp_path / "b").rows
    assert row.awp_source == SOURCE
    assert row.model_copy(update={"awp_likely": False, "awp_source": ""}) == bare
    for said, text in ((False, "no"), (True, "yes")):
        info = INFO | {"awp": said}
        add(write_info(tmp_path, info, "cifar10/Linf/A2020B.json"), tmp_path / "a")
        (stated,) = load(tmp_path / "a").rows
        assert (stated.awp, stated.awp_likely, stated.awp_text) == (said, False, text)
        (tmp_path / "a" / "model_info" / "cifar10" / "Linf" / "A2020B.json").unlink()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            LIKELY_LINE.replace("owner/code", ""),
            "line 2: repository: a likely AWP needs its source",
        ),
        (LIKELY_LINE.replace("1234567", "main"), "line 2: commit: a likely AWP needs its source"),
        (LIKELY_LINE.replace("train.py", " "), "line 2: file: a likely AWP needs its source"),
        (LIKELY_LINE.replace("--awp-gamma 0.005", ""), "line 2: default: a likely AWP needs"),
        (LIKELY_LINE.replace("2210.09852", "a paper"), "line 2: arxiv: a likely AWP needs"),
        (LIKELY_LINE + ",more", "line 2: not as many fields"),
        (LIKELY_LINE.replace("A2020B", "None2020"), "AWP of None2020 (cifar10, linf) is called"),
    ],
)
def test_a_mark_without_its_source_or_its_row_is_named_and_marks_nothing(tmp_path, line, reason):
    published = marked(tmp_path, line)
    assert [row.awp_text for row in published.rows] == ["not stated"]
    (note,) = published.notes
    assert reason in note


@pytest.mark.parametrize("flags", [True, False])
def test_likely_awp_is_added_with_a_source_and_refused_without(tmp_path, capsys, flags):
    results = tmp_path / "results"
    said = {} if flags else {"awp": "likely"}
    file = write_info(tmp_path, INFO | said, "files/Linf/A2024Title.json")
    call = ["published", "add", str(file), "--results", str(results)]
    likely = ["--awp", "likely"] if flags else []
    for blank in ([], ["--awp-source", ""], ["--awp-source", " \u200b "]):
        assert main([*call, *likely, *blank]) == 2
        err = capsys.readouterr().err
        assert "awp_source: expected where AWP is likely" in err
        assert not results.exists()
    assert main([*call, *likely, "--awp-source", SOURCE]) == 0
    (row,) = load(results / "published").rows
    assert (row.awp, row.awp_text, row.awp_source) == (None, "likely", SOURCE)
    assert json.loads(model_info_of_row(row).json_text()) == INFO | {
        "awp": "likely",
        "awp_source": SOURCE,
    }


@pytest.mark.parametrize(
    ("info", "given", "reason"),
    [
        ({"awp": "no"}, {"awp": "likely", "awp_source": SOURCE}, "says awp 'no', and 'likely'"),
        ({"awp": "perhaps"}, {}, "awp"),
        ({"awp": 1}, {}, "awp"),
        ({"awp_source": SOURCE}, {}, "expected awp too"),
    ],
)
def test_what_a_file_says_of_awp_is_not_overruled(tmp_path, info, given, reason):
    with pytest.raises(InvalidInput, match=reason):
        add(write_info(tmp_path, INFO | info), tmp_path / "published", **given)
    assert not (tmp_path / "published").exists()


def test_a_row_is_never_both_likely_and_stated():
    stated = next(row for row in committed() if row.awp)
    with pytest.raises(ValueError, match="only where the source does not state awp"):
        PublishedRow.model_validate(
            stated.model_dump() | {"awp_likely": True, "awp_source": SOURCE}
        )


@pytest.mark.parametrize("name", ["text", "md", "csv", "json", "latex", "html", "robustbench"])
def test_every_export_says_in_words_that_awp_is_likely(tmp_path, name):
    rows = marked(tmp_path, LIKELY_LINE).rows
    bare = [row.model_copy(update={"awp_likely": False, "awp_source": ""}) for row in rows]
    board = Leaderboard((), (), Collection())
    said, unsaid = (str(FORMATS[name].content(View(board, beside(each)))) for each in (rows, bare))
    words = '"awp": "likely"' if name == "robustbench" else LIKELY
    assert words in said.replace("\\n", "\n")
    assert "likely" not in unsaid.replace("awp_likely", "")
    if name != "latex" and name != "text":  # which have no remarks
        assert SOURCE in html.unescape(said)


@pytest.mark.parametrize(("awp", "mark"), [(True, "awp"), (False, "other"), (None, "unknown")])
def test_the_page_draws_what_is_not_stated_as_neither_awp_nor_its_absence(tmp_path, awp, mark):
    (row,) = marked(tmp_path, *([LIKELY_LINE] if awp is None else [])).rows
    view = View(Leaderboard((), (), Collection()), beside([row.model_copy(update={"awp": awp})]))
    page = str(FORMATS["html"].content(view))
    assert re.findall(r'<svg class="(\w+)"', page) == [mark]


# ---------------------------------------------------------------- malformed files


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD.replace("51.00", "151.00"), "robust"),
        (GOOD.replace("51.00", "nan"), "percentage"),
        (GOOD.replace("51.00", "1e1"), "percentage"),
        (GOOD.replace("51.00", ""), "percentage"),
        (GOOD.replace("90.00", "-1"), "percentage"),
        (GOOD.replace("8/255", "8"), "eps"),
        (GOOD.replace("False", "perhaps"), "True, False"),
        (GOOD.replace("Title", "T" * 3000), "title"),
        (GOOD + ",more", "fields"),
        ("A2020B,Title", "fields"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line_and_the_others_stay(tmp_path, line, reason):
    (tmp_path / ROBUSTBENCH).write_text("\n".join([HEADINGS, GOOD, line, GOOD.replace("A", "C")]))
    published = load(tmp_path)
    assert [row.name for row in published.rows] == ["A2020B", "C2020B"]
    (note,) = published.notes
    assert f"{ROBUSTBENCH}, line 3: " in note
    assert reason in note


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n", b'a,"b\n'])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / ROBUSTBENCH).write_bytes(content)
    published = load(tmp_path)
    assert published.rows == ()
    assert len(published.notes) == 1
    assert ROBUSTBENCH in published.notes[0]


def test_a_missing_folder_has_no_rows(tmp_path):
    assert load(tmp_path / "none") == load(tmp_path)


# ---------------------------------------------------------------- RobustBench's files


def test_a_model_info_file_becomes_a_row_and_back_without_loss(tmp_path):
    target = add(write_info(tmp_path, INFO), tmp_path / "published")
    assert json.loads(target.read_text()) == INFO
    (row,) = load(tmp_path / "published").rows
    assert (row.name, row.dataset, str(row.threat)) == ("A2024Title", "cifar10", "linf:8/255")
    assert row.standing == Decimal("70.00")
    back = model_info_of_row(row)
    assert back == read_model_info(target)
    assert json.loads(back.json_text()) == INFO
    assert add(write_info(tmp_path, INFO), tmp_path / "published") == target


@pytest.mark.parametrize(
    ("change", "eps"),
    [
        ({"eps": 8 / 255}, "8/255"),
        ({"eps": 0.5, "dataset": "cifar100"}, "0.5"),
        ({"eps": None}, "8/255"),
        ({"eps": None, "dataset": "imagenet"}, "4/255"),
    ],
)
def test_a_radius_may_be_a_number_or_the_usual_one(tmp_path, change, eps):
    add(write_info(tmp_path, INFO | change), tmp_path / "published")
    (row,) = load(tmp_path / "published").rows
    assert row.threat.eps == eps


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        ("{", None, "JSON"),
        ([], None, "object"),
        (INFO | {"autoattack_acc": "101"}, None, "autoattack_acc"),
        (INFO | {"autoattack_acc": "1e1"}, None, "autoattack_acc"),
        (INFO | {"autoattack_acc": None}, None, "no autoattack_acc"),
        (
            INFO | {"clean_acc": "70.00"},
            None,
            "robust accuracy 71.59 % above clean accuracy 70.00 %",
        ),
        (SHARES, None, "look like shares; percent are wanted"),
        (SHARES | {"clean_acc": None}, None, "look like shares"),
        (INFO | {"eps": "8"}, None, "eps"),
        (INFO | {"dataset": "../../x"}, None, "dataset"),
        (INFO | {"additional_data": "maybe"}, None, "additional_data"),
        (INFO, "cifar10/corruptions/A.json", "norm"),
        (INFO | {"eps": None}, "cifar10/L1/A.json", "eps"),
    ],
)
def test_a_file_that_is_no_row_is_refused_with_its_reason(tmp_path, value, place, reason):
    path = write_info(tmp_path, value, place or "cifar10/Linf/A2024Title.json")
    with pytest.raises(InvalidInput, match=reason):
        add(path, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_another_answer_under_one_name_is_refused_and_added_files_replace_lines(tmp_path):
    (tmp_path / "published").mkdir()
    line = GOOD.replace("A2020B", "A2024Title")
    (tmp_path / "published" / ROBUSTBENCH).write_text(f"{HEADINGS}\n{line}\n")
    target = add(write_info(tmp_path, INFO), tmp_path / "published")
    (row,) = load(tmp_path / "published").rows
    assert str(row.robust) == "71.59"
    with pytest.raises(InvalidInput, match="something else already"):
        add(write_info(tmp_path, INFO | {"clean_acc": "99"}), tmp_path / "published")
    target.write_text("{")
    published = load(tmp_path / "published")
    assert str(published.rows[0].robust) == "51.00"
    assert "A2024Title.json" in published.notes[0]


def test_the_command_line_lists_and_adds(tmp_path, capsys):
    file = write_info(tmp_path, INFO, "anywhere/A2024Title.json")
    results = tmp_path / "results"
    assert main(["published", "add", str(file), "--results", str(results)]) == 2
    assert "names its norm" in capsys.readouterr().err
    words = ["published", "add", str(file), "--norm", "Linf", "--results", str(results)]
    assert main(words) == 0
    assert capsys.readouterr().out.strip().endswith("model_info/cifar10/Linf/A2024Title.json")
    assert main(["published", "list", "--results", str(results)]) == 0
    assert "cifar10" in capsys.readouterr().out
    assert main(["table", "--results", str(results), "--published"]) == 0
    assert MARK in capsys.readouterr().out
