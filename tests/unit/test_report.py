"""Reports: the page's tables from data, every format, and strings that try to break out."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import msgspec
import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench.cli.report import report as command
from tgsbench.errors import TgsError
from tgsbench.presets import load_references
from tgsbench.report import collect, page, plain, svg
from tgsbench.report.charts import charts_of
from tgsbench.report.document import Report
from tgsbench.report.markup import join, tag
from tgsbench.results import imported
from tgsbench.schema.hotspots import Finding, Profile

HOSTILE = "<script>alert(1)<"


def parsed(html: str) -> ET.Element:
    """The page is well-formed XML once the doctype is gone: no tag was left open by any string."""
    return ET.fromstring(html.removeprefix("<!doctype html>\n"))


def table_rows(html: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(html).iter("tr")]


@pytest.fixture
def hostile(tmp_path):
    run = store_run(tmp_path, HOSTILE, created_unix=1.0)
    profile = Profile(shares={"gemm": 0.7, "all_to_all": 0.2996, "data": 0.0004})
    profile.findings = [Finding(code="x", text="<img src=x onerror=alert(1)>")]
    (run.path / "profile").mkdir()
    (run.path / "profile" / "hotspots.json").write_bytes(msgspec.json.encode(profile))
    return run


def test_the_published_report_holds_the_reference_pages_three_tables():
    found = collect.published()
    assert [t.model for t in found.tables] == ["Llama2-7B", "Yi-34B-200K", "Llama2-70B"]
    assert sum(len(t.entries) for t in found.tables) == 14
    references = load_references()
    for table in found.tables:
        for entry in table.entries:
            want = {row.system: (row.tgs, row.status) for row in references[entry.config]}
            assert {s: (row.tgs, row.status) for s, row in entry.published.items()} == want
            assert entry.forecast is not None and entry.forecast.tgs


def test_the_published_page_shows_each_figure_and_out_of_memory_where_it_was():
    rows = {row[0]: row for row in table_rows(page.render(collect.published()))}
    assert rows["llama2_7b_8k"][1:9] == [
        "8 x A100-SXM4-80GB", "8k", "1", "3028.3", "185.3 xtuner", "44.7 %", "2685.0", "39.7 %",
    ]  # fmt: skip
    assert rows["llama2_70b_32k"][4:8] == ["300.9", "239.6 xtuner", "52.2 %", "OOM"]


def test_a_page_needs_nothing_from_outside_and_runs_nothing(hostile):
    for found in (collect.published(), collect.of_words(hostile.path.parent, [HOSTILE])):
        html = page.render(found)
        elements = {element.tag for element in parsed(html).iter()}
        assert not elements & {"script", "link", "img", "iframe", "object", "foreignObject", "a"}
        attributes = {name for element in parsed(html).iter() for name in element.attrib}
        assert not {n for n in attributes if n in ("src", "href", "style") or n.startswith("on")}
        assert "url(" not in html and "@import" not in html
        policy = next(m.get("content") for m in parsed(html).iter("meta") if m.get("http-equiv"))
        assert policy.startswith("default-src 'none'")
        assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_a_run_named_script_shows_as_text(hostile):
    html = page.render(collect.of_words(hostile.path.parent, [HOSTILE]))
    assert "<script" not in html and "<img" not in html
    text = "".join(parsed(html).itertext())
    assert f"Run {HOSTILE}" in text and "<img src=x onerror=alert(1)>" in text
    assert any(HOSTILE in cell for row in table_rows(html) for cell in row)


def test_markdown_escapes_what_would_be_markup(hostile):
    text = plain.markdown(collect.of_words(hostile.path.parent, [HOSTILE]))
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<" not in outside_code
    cells = re.split(r"(?<!\\)\|", next(line for line in outside_code.splitlines() if "| &lt;script" in line))
    assert cells[0] == cells[-1] == ""


def test_a_pipe_in_a_name_does_not_add_a_column():
    row = plain.markdown_row(["a|b", "c\nd"])
    assert row == "| a\\|b | c d |"


def test_csv_holds_every_row_unrounded_and_no_formula():
    rows = list(csv.DictReader(io.StringIO(plain.csv_text(collect.published()))))
    of_the_page = [rows for rows in load_references().values() if any(r.system == "xtuner" for r in rows)]
    published = sum(map(len, of_the_page))
    assert len(rows) == published + 14
    row = next(r for r in rows if r["label"] == "xtuner:llama2_70b_1M")
    assert (row["tgs"], row["status"], row["num_gpus"]) == ("21.8", "ok", "64")
    assert plain._csv_cell("=cmd|' /C calc'!A0").startswith("'")
    assert plain._csv_cell(-1.5) == -1.5


def test_bars_of_runs_of_one_setting_are_told_apart_by_their_names(tmp_path):
    for name in ("first", "second", "20261125T045434-llama2_7b_32k-720c"):
        store_run(tmp_path, name)
    html = page.render(collect.of_words(tmp_path, ["first", "second", "720c"]))
    labels = ["".join(text.itertext()) for text in parsed(html).iter() if text.tag.endswith("text")]
    assert {"32k fsdp2 first", "32k fsdp2 second", "32k fsdp2 …2_7b_32k-720c"} <= set(labels)


def test_a_run_on_a_disturbed_machine_is_marked_in_the_table(tmp_path):
    store_run(tmp_path, "busy", disturbances=["other processes used 1.5 of 2 cores"])
    store_run(tmp_path, "quiet")
    cells = [row[-1] for row in table_rows(page.render(collect.of_words(tmp_path, ["busy", "quiet"])))]
    assert cells == ["run", "busy (disturbed machine)", "quiet"]


def test_a_measured_run_stands_beside_published_and_predicted(tmp_path):
    store_run(tmp_path, "mine")
    found = collect.of_words(tmp_path, ["mine"])
    (entry,) = found.tables[0].entries
    assert entry.forecast is not None and set(entry.published) == {"xtuner", "llamafactory"}
    assert {c.b.system: c.verdict for c in entry.against} == {"xtuner": "better", "llamafactory": "better"}
    html = page.render(found)
    assert "mine against xtuner:llama2_7b_32k: better: 1.030x" in html
    assert found.runs[0].environment["torch"] == "2.13.0"
    assert found.runs[0].environment["GPUs"] == "8 x NVIDIA A100-SXM4-80GB"


def test_a_rehearsal_stands_apart_and_beside_nothing_published(tmp_path):
    from tgsbench.launch.rehearse import rehearsal

    small = rehearsal(a_preset(), 2)
    store_run(tmp_path, "small", small, device="cpu", rehearsal_of=small.rehearsal_of)
    (table,) = collect.of_words(tmp_path, ["small"]).tables
    assert table.model == "Llama2-7B (rehearsal)"
    assert table.entries[0].published == {} and table.entries[0].against == []


def test_a_run_that_failed_is_reported_as_what_it_is(tmp_path):
    store_run(tmp_path, "dead", status="oom", samples=[])
    found = collect.of_words(tmp_path, ["dead", "llama2_7b_1M"])
    assert "OOM" in {cell for row in table_rows(page.render(found)) for cell in row}
    assert "| OOM |" in plain.markdown(found)


def test_an_imported_row_is_part_of_a_report(tmp_path):
    context = imported.Context(
        name="other", model=a_preset().model, seq_len=32768, gpu="A100-SXM4-80GB", num_gpus=8
    )
    (row,) = imported.from_csv("name,tgs\nother,2000\n", context, {})
    imported.save(tmp_path, row)
    (table,) = collect.of_words(tmp_path, [f"foreign:{row.row.label}"]).tables
    assert table.entries[0].measured.tgs == 2000


def test_the_command_writes_the_page_and_prints_each_format(tmp_path):
    store_run(tmp_path / "runs", "mine")
    run, where = CliRunner(), ["--output", str(tmp_path / "runs")]
    done = run.invoke(command, ["mine", "--html", str(tmp_path / "r.html"), *where])
    assert done.exit_code == 0 and parsed((tmp_path / "r.html").read_text()) is not None
    document = json.loads(run.invoke(command, ["mine", "--json", *where]).stdout)
    assert msgspec.convert(document, Report, strict=False).tables[0].entries[0].measured.label == "mine"
    assert run.invoke(command, ["mine", "--csv", *where]).stdout.startswith("config,model,")
    assert run.invoke(command, ["mine", *where]).stdout.startswith("# ")


def test_a_report_on_nothing_says_what_to_name():
    done = CliRunner().invoke(command, [])
    assert isinstance(done.exception, TgsError) and "--published" in done.exception.msg


def test_elements_escape_text_and_attributes():
    assert tag("p", 'a<b & "c"', title='x"y<') == '<p title="x&#34;y&lt;">a&lt;b &amp; &#34;c&#34;</p>'
    assert join("<", tag("br")) == "&lt;<br/>"


@pytest.mark.parametrize("values", [(1e-9, 5e12), (3.0, 3.0), (0.02, 0.021)])
def test_line_charts_stay_inside_their_box(values):
    line = svg.SvgSeries("a", 0, [(1024.0, values[0]), (2048.0, values[1])])
    chart = ET.fromstring(svg.lines("t", [line], str, "y"))
    for circle in chart.iter("circle"):
        if circle.get("cx") != "6":
            assert 0 <= float(circle.get("cx")) <= svg.WIDTH and 0 <= float(circle.get("cy")) <= 250


def test_small_shares_are_summed_up_not_dropped():
    chart = svg.shares("t", {"gemm": 0.9, "a": 0.004, "b": 0.004, "idle": 0.092})
    texts = [text.text for text in ET.fromstring(chart).iter("text")]
    assert "rest" in texts and "0.8 %" in texts


def test_a_published_preset_is_one_row_however_many_published_it(tmp_path):
    words = ["published:llama2_7b_8k", "xtuner:llama2_7b_8k", "llama2_7b_8k"]
    (table,) = collect.of_words(tmp_path, words).tables
    (entry,) = table.entries
    assert set(entry.published) == {"xtuner", "llamafactory"}


@pytest.mark.parametrize("form", [plain.markdown, page.render])
def test_published_figures_are_printed_as_they_were_published(form):
    text = form(collect.published())
    for figure in ("3028.3", "2685.0", "2234.2", "21.8", "133.5"):
        assert figure in text
    assert "3,028" not in text and "2,234" not in text


def test_the_page_has_its_date_and_bars_with_intervals_and_ratios(tmp_path, monkeypatch):
    monkeypatch.setattr(collect.time, "time", lambda: 1_795_874_400.0)
    store_run(tmp_path, "mine", created_unix=1_795_000_000.0)
    store_run(tmp_path, "slower", samples=[2000.0 + i for i in range(8)])
    found = collect.of_words(tmp_path, ["mine", "slower"])
    html = page.render(found)
    assert "2026-11-28 14:00 UTC" in html and "2026-11-18 11:06 UTC" in html
    assert "Against each other" in html and "slower against mine: worse: 0.870x" in html
    (table,) = found.tables
    figures = [chart for chart in charts_of(table) if "ratio of TGS" in chart]
    assert len(figures) == 1
    for label in ("slower / mine", "mine / xtuner:llama2_7b_32k"):
        assert label in figures[0]
    assert figures[0].count('class="interval"') == 5, "two published rows a run, and the runs"
    assert charts_of(table)[0].count('class="interval"') >= 2, "bars of TGS"
    assert "Against each other" in plain.markdown(found) and "2026-11-28" in plain.markdown(found)
