"""Every format of the leaderboard: what it must hold, what comes back from it, what cannot run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import unicodedata
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from bench import table
from bench.__main__ import main
from bench.exports import formats
from bench.exports.boards import model_info, robustbench_files
from bench.exports.data import csv_text, parquet_bytes
from bench.exports.formats import FORMATS
from bench.exports.page import page
from bench.exports.papers import bibtex, escape, latex
from bench.exports.view import View, select
from bench.notation import plain
from bench.published import MARK, Published, PublishedRow
from bench.published.files import add, load, model_info_of_row
from bench.records import store
from bench.records.reproduce import reproduce
from bench.schema import Flag, InvalidInput, ThreatModel
from bench.table import WORST_CASE
from tests.board import board_records

HOSTILE = (
    "<script>document.title='taken'</script>\"'><img src=x onerror=alert(1)>"
    "{{7*7}}{% include 'x' %}\\input{/etc/passwd}$\\&%#_^~ @a=b|c` \u202etxt\u200b\x00\n**b** "
)
LONG = "x" * 10_000
HASH = "'sha256-[A-Za-z0-9+/]{43}='"


def published_row(**fields: Any) -> PublishedRow:
    given = {
        "dataset": "digits",
        "threat": ThreatModel.parse("linf:0.15"),
        "name": "Somebody2020Title",
        "attack": "AutoAttack",
        "robust": "56.17",
        "clean": "85.36",
        "source": "somebody/somewhere file.json",
        "title": "A title",
        "link": "https://example.org/paper",
        "venue": "NeurIPS 2020",
        "authors": "Somebody et al.",
    }
    return PublishedRow(**(given | fields))


@pytest.fixture(scope="module")
def example(recorded, tmp_path_factory) -> View:
    """Two data sets, pairs, flags, failures; hostile text wherever a record or a source has text."""
    root = tmp_path_factory.mktemp("results") / "all"
    shutil.copytree(recorded, root)
    flag = Flag(name="zero-gradients", message=HOSTILE, values={"a": HOSTILE, "b": LONG})
    card = board_records.make_card(
        "hostile", authors=HOSTILE, link="javascript:alert(1)", arch=HOSTILE, licence=LONG[:2000],
        extra_data=HOSTILE, commit=HOSTILE, arch_args={"width": HOSTILE},
    )  # fmt: skip
    hostile = board_records.make_record(
        card, n=1000, flags=(flag,), environment={HOSTILE: HOSTILE, "a": LONG}, created=HOSTILE,
        engine_version=HOSTILE,
    )  # fmt: skip
    linked = board_records.make_card(
        "linked", link="https://example.org/?a=1&b={2}", authors="A, B"
    )
    board_records.write_all(root, [hostile, board_records.make_record(linked, n=1000, robust=0.7)])
    withdrawn = board_records.make_record(board_records.make_card("gone"), failure=HOSTILE)
    board_records.write_all(root, [withdrawn])
    rows = (
        published_row(),
        published_row(name="Weak", attack="PGD-20", title="", link="", robust="99.0"),
        published_row(
            dataset="cifar10", threat=ThreatModel.parse("linf:8/255"), name=HOSTILE, title=HOSTILE,
            link="javascript:alert(1)", source=HOSTILE, notes=LONG[:2000], architecture=HOSTILE,
            authors=HOSTILE, venue=HOSTILE, checkpoint=HOSTILE,
        ),
    )  # fmt: skip
    return select(table.build(root), published=Published(rows, (plain(HOSTILE),)))


@pytest.fixture(scope="module")
def written(example) -> dict[str, formats.Content]:
    """Every format of it."""
    return {name: chosen.content(example) for name, chosen in FORMATS.items()}


@pytest.fixture
def empty(tmp_path) -> View:
    return select(table.build(tmp_path / "none"))


def texts_of(content: formats.Content) -> list[str]:
    if isinstance(content, bytes):
        columns = pq.read_table(io.BytesIO(content)).to_pydict()
        return [str(value) for values in columns.values() for value in values]
    return [content] if isinstance(content, str) else [*content, *content.values()]


# ---------------------------------------------------------------- every format


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_the_same_bytes_again(name, example, written):
    assert FORMATS[name].content(example) == written[name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_holds_every_model_marks_what_was_published_and_hides_no_characters(
    name, example, written
):
    texts = texts_of(written[name])
    for text in texts:
        assert not {c for c in text if unicodedata.category(c) in ("Cf", "Cc", "Co")} - {"\n"}
        # Tables and pages are cut for people; files for programs say all of it.
        assert name in ("json", "robustbench") or "x" * 600 not in text
    if name == "bibtex":
        return
    joined = "\n".join(texts)
    ranked = {r.card.name for g in example.groups for r in g.rows if r.rank and g.n == 1000}
    assert {m for m in ranked if m not in joined.replace(r"\_", "_").replace("\\", "")} == set()
    if name not in ("robustbench", "hugging-face", "badge"):  # files for boards of their own
        assert MARK in joined


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_nothing_is_no_error(name, empty, tmp_path):
    written = formats.write(name, empty, tmp_path / "out")
    assert all(path.is_file() for path in written)
    assert len(written) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_line_writes_the_file_alone(name, tmp_path, capsys):
    store, out = tmp_path / "results", tmp_path / "out"
    board_records.write_all(store, board_records.matched_pair(0))
    words = ["table", "--results", str(store), "--format", name]
    assert main([*words, "--out", str(out)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written
    assert all(path.is_file() for path in written)
    assert not (store / "LEADERBOARD.md").exists()
    is_text = isinstance(FORMATS[name].content(select(table.build(store))), str)
    assert main(words) == (0 if is_text else 2)
    said = capsys.readouterr()
    assert is_text or "--out" in said.err
    assert (store / "LEADERBOARD.md").exists() == is_text


def test_a_page_goes_into_a_folder_and_files_and_folders_are_not_mixed_up(example, tmp_path):
    assert formats.write("html", example, tmp_path) == [tmp_path / "index.html"]
    with pytest.raises(InvalidInput, match="is a folder"):
        formats.write("csv", example, tmp_path)
    with pytest.raises(InvalidInput, match="is a file"):
        formats.write("robustbench", example, tmp_path / "index.html")


def test_filters_keep_a_part_and_name_what_there_is(example):
    board, rows = example.board, [row for rows in example.published.values() for row in rows]
    part = select(board, published=Published(tuple(rows)), dataset="cifar10")
    assert (part.groups, len(part.published)) == ((), 1)
    part = select(board, dataset="digits", threat="linf:0.15")
    assert {group.dataset for group in part.groups} == {"digits"}
    group = part.groups[0]
    part = select(board, protocol=group.protocol.name, n=group.n)
    assert group in part.groups
    assert {(g.protocol.name, g.n) for g in part.groups} == {(group.protocol.name, group.n)}
    with pytest.raises(InvalidInput, match="no rows of digits n = 7. There is: .*n = "):
        select(board, dataset="digits", n=7)
    with pytest.raises(InvalidInput, match="There is: .*digits linf:0.15"):
        select(board, dataset="digit")
    with pytest.raises(InvalidInput, match="norm:eps"):
        select(board, threat="8/255")


# ---------------------------------------------------------------- CSV and Parquet


def test_parquet_gives_back_the_counts_exactly(example):
    lines = pq.read_table(io.BytesIO(parquet_bytes(example.groups, example.published))).to_pylist()
    flat = [(group, row) for group in example.groups for row in group.rows]
    assert len(lines) == len(flat) + 3
    for line, (group, row) in zip(lines, flat, strict=False):
        assert (line["n"], line["rank"], line["record"]) == (group.n, row.rank, row.record.id)
        assert line["demo"] is group.demo
        for measure in (WORST_CASE, "clean", *(c.name for c in group.columns)):
            count = line[f"{measure}_standing"]
            assert count == int(row.standing[measure].sum())
            assert line[measure] == 100 * (count / group.n)
        assert line["best_known_standing"] == int(row.best_known.sum())
        assert line["status"] == "measured here"
    assert [line["published_robust"] for line in lines[-3:]] == [56.17, 99.0, 56.17]


def test_csv_and_parquet_say_the_same(example):
    written = list(csv.DictReader(io.StringIO(csv_text(example.groups, example.published))))
    typed = pq.read_table(io.BytesIO(parquet_bytes(example.groups, example.published))).to_pylist()
    for line, values in zip(written, typed, strict=True):
        for heading, text in line.items():
            value = values[heading]
            if isinstance(value, float):
                assert float(text) == pytest.approx(value, abs=0.005001)
            elif isinstance(value, bool):
                assert text == ("yes" if value else "no")
            else:
                assert text == ("" if value is None else str(value))
            assert not text.startswith(("=", "+", "-", "@"))


# ---------------------------------------------------------------- LaTeX and BibTeX


def test_latex_prints_every_character_as_itself():
    for c in map(chr, range(32, 127)):
        escaped = escape(f"a{c}b")
        special = re.sub(r"\\(text[a-z]+|dots)\{\}|\\[$&#%_]|\{[][*]\}", "", escaped)
        assert not set(special) & set("\\{}$&#%_^~")
        assert c in "\\{}^~<>|\"`" or c in escaped  # fmt: skip


def test_latex_tables_have_as_many_cells_as_columns_and_n_in_their_caption(example):
    text = latex(example)
    assert "\\input" not in text
    tables = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}(.*?)\\end\{", text, re.S)
    assert len(tables) == len(example.groups) + len(example.published)
    for columns, body in tables:
        lines = [
            line for line in body.splitlines() if line.endswith(r" \\") and "caption" not in line
        ]
        assert all(len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns) for line in lines)
        assert len(lines) > 1
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert sum("n = " in caption for caption in captions) == len(example.groups)
    assert sum(MARK in caption for caption in captions) == len(example.published)


def test_latex_breaks_a_long_table_over_pages():
    rows = [published_row(name=f"M{k}") for k in range(50)]
    view = View(table.Leaderboard((), (), store.Collection()), {("digits", rows[0].threat): rows})
    assert latex(view).count("{longtable}") == 2  # begin and end


def test_bibtex_cites_the_board_the_papers_and_every_model_with_a_link_once(example):
    text = bibtex(example)
    keys = re.findall(r"^@\w+\{([^,\s]+),$", text, re.M)
    assert len(keys) == len(set(keys))
    assert {"awp-robustness-board", "wu2020adversarial", "croce2020reliable"} < set(keys)
    assert {"linked", "Somebody2020Title"} < set(keys)
    assert "hostile" not in keys
    assert "javascript" not in text
    for entry in text.split("\n\n"):
        depth = 0
        for c in entry:  # BibTeX counts braces whatever stands before them
            depth += (c == "{") - (c == "}")
            assert depth >= 0
        assert depth == 0
    assert "{Somebody} and others" in text
    assert "url = {https://example.org/?a=1&b=%7B2%7D}" in text


# ---------------------------------------------------------------- RobustBench and Hugging Face


def test_robustbench_files_come_back_as_published_rows_with_all_fields(example, tmp_path):
    files = formats.write("robustbench", example, tmp_path)
    ranked = [(g, r) for g in example.groups for r in g.rows
              if r.rank and any(c.name == "autoattack" for c in g.columns)]  # fmt: skip
    others = sum(row.attack == "AutoAttack" for rows in example.published.values() for row in rows)
    assert len(files) == len(ranked) + others
    for path in files:
        assert add(path, tmp_path / "published").read_text() == path.read_text()
    published = load(tmp_path / "published")
    assert published.notes == ()
    rows = {(row.dataset, row.name): row for row in published.rows}
    seen = set()
    for group, row in ranked:
        name = row.card.name if row.card.name not in seen else f"{row.card.name}_{row.record.id}"
        seen.add(row.card.name)
        info = model_info(group, row)
        assert model_info_of_row(rows[group.dataset, name]) == info
        assert (
            str(info.autoattack_acc)
            == f"{100 * row.record.whole.robust_accuracy['autoattack']:.2f}"
        )
        assert f"n = {group.n:,}" in (info.footnote or "")
        assert row.record.id in (info.footnote or "")


@pytest.mark.slow
def test_robustbench_s_own_code_reads_the_files(tmp_path, monkeypatch, capsys):
    from bench.sources.robustbench_repairs import import_robustbench

    shared = {"dataset": "cifar10", "threat": ThreatModel.parse("linf:8/255")}
    card = board_records.make_card("Wu2020Adversarial", **shared, authors="A. B, C. D")
    board_records.write_all(
        tmp_path, [board_records.make_record(card, threat="linf:8/255", robust=0.5617)]
    )
    (group,) = table.build(tmp_path).groups
    formats.write("robustbench", select(table.build(tmp_path)), tmp_path)
    monkeypatch.chdir(tmp_path)  # it reads ./model_info
    utils = import_module(f"{import_robustbench().__name__}.utils")
    utils.list_available_models("cifar10", "Linf")
    line = capsys.readouterr().out.splitlines()[-1]
    rate = group.rows[0].record.whole.robust_accuracy["autoattack"]
    assert "Wu2020Adversarial" in line
    assert f"{rate:.2%}" in line
    assert "A. B and C. D" in utils.get_leaderboard_bibtex("cifar10", "Linf")[1]
    entries = utils.get_leaderboard_latex("cifar10", "Linf", sort_by="autoattack_acc")
    assert f"{100 * rate:.2f}" in entries


def test_only_the_attacks_that_robustbench_runs_are_exported(tmp_path):
    card = board_records.make_card("a")
    record = board_records.make_record(card, protocol="gradient")
    board_records.write_all(tmp_path, [record])
    assert robustbench_files(select(table.build(tmp_path))) == {}


def test_hugging_face_reads_the_results_back(example, tmp_path):
    for path in formats.write("hugging-face", example, tmp_path):
        card = ModelCard(path.read_text())
        name, store = model_index_to_eval_results(
            yaml.safe_load(path.read_text()[4:-4])["model-index"]
        )
        assert (name, card.data.model_name) == (path.stem, path.stem)
        assert card.data.eval_results == store
        rows = [(g, r) for g in example.groups for r in g.rows if r.card.name == name]
        wanted = {
            (f"{row.record.id}", f"{100 * rate.estimate:.2f}")
            for _, row in rows
            for rate in row.rates.values()
        }
        said = {(r.metric_args["record"], f"{r.metric_value:.2f}") for r in store}
        assert said == wanted
        assert len({r.unique_identifier for r in store}) == len(rows)
        for result in store:
            args = result.metric_args
            assert result.metric_value == round(100 * args["standing"] / args["n"], 2)


# ---------------------------------------------------------------- the page


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "line", "rect", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def test_nothing_foreign_becomes_markup_or_an_address(written):
    tags = Tags(written["html"])
    assert tags.open == []
    names = [name for name, _ in tags.tags]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "base"} & set(names)
    for name, attributes in tags.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "style")]
        address = attributes.get("href")
        assert address is None or address.startswith(
            ("#", "https://", "data:image/svg+xml;base64,")
        )
        assert (name == "link") == (address is not None and address.startswith("data:"))
    text = "".join(tags.words)
    assert "<script>document.title='taken'</script>" in text
    assert "javascript:alert(1)" in text
    assert "{{7*7}}" in text
    assert "\u202e" not in text


@pytest.mark.parametrize("which", ["empty", "example"])
def test_who_shows_a_link_to_the_page_learns_what_it_holds(which, empty, example, written):
    tags = Tags(page(empty) if which == "empty" else written["html"]).tags
    said = {a.get("property") or a.get("name"): a["content"] for _, a in tags if "content" in a}
    models = len({row.card.name for group in example.groups for row in group.rows})
    starts = {"empty": "No network yet: ", "example": f"{models} networks measured here"}
    assert str(said["description"]).startswith(starts[which])
    assert said["og:description"] == said["description"]
    assert said["og:title"] == "Robustness leaderboard"


@pytest.mark.parametrize("which", ["empty", "example"])
def test_the_policy_allows_the_page_s_own_style_and_script_alone(which, empty, written):
    text = page(empty) if which == "empty" else written["html"]
    policy = next(
        a["content"] for name, a in Tags(text).tags if a.get("http-equiv") and name == "meta"
    )
    assert re.fullmatch(
        f"default-src 'none'; style-src {HASH}; script-src {HASH}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        str(policy),
    )
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)
    assert "http://" not in text
    assert "@import" not in text


def test_every_row_leads_to_its_details_and_demo_data_come_last(example, written):
    text = written["html"]
    tags = Tags(text)
    ids = [a["id"] for _, a in tags.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for _, a in tags.tags if str(a.get("href", "")).startswith("#")]
    assert set(targets) <= set(ids)
    rows = [row for group in example.groups for row in group.rows]
    assert {f"{row.card.name}-{row.record.id}" for row in rows} <= set(targets)
    assert sum(name == "tr" for name, _ in tags.tags) > len(rows)
    headings = re.findall(r"<h2>(.*)</h2>", text)
    demo = ["Demo data" in heading for heading in headings[:-1]]  # the last is of the notes
    assert demo == sorted(demo)
    assert any(demo)
    assert not all(demo)
    for row in rows[:5]:
        assert reproduce(row.record.whole, row.path).split(" --dataset")[0] in text
        assert row.record.card.weights_sha256 in text
        each = row.record.passes / row.record.worst_case_count
        assert f" passes an image, {each:,.0f} a standing image, " in text


def test_a_bar_lies_where_its_interval_is(example, written):
    text = written["html"]
    bars = re.findall(
        r'<rect x="([\d.]+)" y="5" width="([\d.]+)".*?(?:cx="([\d.]+)"|d="M([\d.]+) )', text
    )
    rows = [row for group in example.groups for row in group.rows]
    assert len(bars) == len(rows) + 3
    for left, width, *middle in bars:
        at = float(middle[0] or middle[1])
        assert 2 <= float(left) <= at <= float(left) + float(width) + 0.6
        assert float(left) + float(width) <= 118


# ---------------------------------------------------------------- the command of a row


def test_the_command_says_what_is_not_the_default():
    record = board_records.make_record(engine="reference", seed=3, split="test[200:400]")
    command = reproduce(record, Path("nowhere") / "x.json")
    assert "var/checkpoints/digits-at-seed0-last" in command
    assert "--engine reference" in command
    assert "--split 'test[200:400]'" in command
    assert "--seed 3" in command
    card = board_records.make_card("zoo", link="robustbench:cifar10/Linf/Wu2020Adversarial")
    command = reproduce(board_records.make_record(card), Path("nowhere") / "x.json")
    assert " robustbench:cifar10/Linf/Wu2020Adversarial " in command
    assert "--engine" not in command


def test_json_marks_published_rows_and_keeps_their_digits(example, written):
    groups = json.loads(written["json"])
    published = [group for group in groups if group.get("status") == MARK]
    assert [row["robust"] for row in published[0]["published"]] == ["56.17", "99.0"]
    assert len(groups) == len(example.groups) + len(example.published)
