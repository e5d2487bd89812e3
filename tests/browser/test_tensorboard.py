"""TensorBoard in a browser without network: every view, its figures beside those of `tgsbench profile`."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from urllib.parse import urlsplit

import pytest

from tests.browser.board import SIMULATED, TINY, Pages, make_sources, number, served
from tests.browser.chrome import chromium, complaints, needs_chromium, requests, wait
from tests.contract.cli import tgsbench_json
from tests.traces.made_cuda import STEPS, cuda_rank
from tgsbench.results.export.series import series_of
from tgsbench.store.run_dir import RunDir

pytestmark = [
    pytest.mark.browser,
    needs_chromium,
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch_tb_profiler") is None, reason="needs tgsbench[profile]"
    ),
]
HALF_US = 0.51
"""Half a microsecond: the plugin's tables show whole ones."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("board")


MARKUP = '<img src=x onerror="window.isOwned = true"><b>name</b>'


@pytest.fixture(scope="module")
def sources(home):
    return make_sources(home, device="NVIDIA A100-SXM4-80GB")  # a GPU whose peak is known has an MFU


@pytest.fixture(scope="module")
def hostile(home):
    """A folder with a trace whose names are markup."""
    made = cuda_rank(0)
    made.launch(made.operator(f"op {MARKUP}", 160, 10), 161, f"kernel {MARKUP}", 850, 100)
    (home / "hostile").mkdir()
    made.write(home / "hostile" / "made_0000.pt.trace.json")
    return "hostile"


@pytest.fixture(scope="module")
def profiles(home, sources):
    """Rank -> analysis, of each source."""
    found = {source: tgsbench_json(home, "profile", source, "--json") for source in sources}
    return {source: {rank["rank"]: rank for rank in profile["ranks"]} for source, profile in found.items()}


@pytest.fixture(scope="module")
def address(home, sources, hostile):
    with served(home, *sources, hostile) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def pages(browser, address):
    yield Pages(browser, address)
    port = urlsplit(address).port
    asked = {(url.scheme, url.hostname, url.port) for url in map(urlsplit, requests(browser))}
    inside = {("data", None, None), ("blob", None, None), ("about", None, None)}
    assert asked - inside == {("http", "127.0.0.1", port)}
    assert complaints(browser) == []


def us(milliseconds):
    return milliseconds * 1000


def times(row):
    return number(row["Time Duration (us)"])


def test_overview_of_a_gpu_says_what_the_profile_says(pages, profiles):
    pages.open(SIMULATED, "Overview", "made_0000")
    rank = profiles[SIMULATED][0]
    compute = rank["parts_ms"]["gemm"] + rank["parts_ms"]["attention_fwd"] + rank["parts_ms"]["optimizer"]
    assert times(pages.row("Average Step Time")) == pytest.approx(us(rank["step_ms"]))
    assert times(pages.row("Kernel")) == pytest.approx(us(compute))
    assert times(pages.row("Communication")) == pytest.approx(us(sum(rank["exposed_ms"].values())))
    assert times(pages.row("Memcpy")) == pytest.approx(us(rank["parts_ms"]["memcpy"]))
    assert pages.charts() > 8


def test_overview_of_a_cpu_says_what_the_profile_says(pages, profiles):
    for number_of_rank, rank in profiles[TINY].items():
        pages.open(TINY, "Overview", f"golden_{number_of_rank:04d}")
        pages.text(f"{round(us(rank['step_ms'])):,}")  # the selector changes before the table does
        assert times(pages.row("Average Step Time")) == pytest.approx(us(rank["step_ms"]), abs=HALF_US)


def test_operators_have_device_time(pages, profiles):
    pages.open(SIMULATED, "Operator", "made_0000")
    found = {op["name"]: op for op in profiles[SIMULATED][0]["top"] if op["source"] == "operator"}
    for name in ("aten::mm", "aten::_flash_attention_forward"):
        row = pages.row(name)
        assert number(row["Calls"]) == found[name]["calls"] * len(STEPS)
        device_us = pytest.approx(us(found[name]["total_ms"]) * len(STEPS))
        assert number(row["Device Self Duration (us)"]) == device_us
    assert pages.row("aten::mm")["Tensor Cores Eligible"] == "Yes"


def test_kernels(pages, profiles):
    pages.open(SIMULATED, "GPU Kernel", "made_0001")
    top = profiles[SIMULATED][1]["top"]
    kernels = [op for op in top if op["source"] == "kernel" and op["kind"] != "memcpy"]
    assert len(kernels) == 5
    for kernel in kernels:
        row = pages.row(kernel["name"])
        assert number(row["Calls"]) == kernel["calls"] * len(STEPS)
        assert number(row["Total Duration (us)"]) == pytest.approx(us(kernel["total_ms"]) * len(STEPS))
    assert pages.row("nvjet_tst_256x128")["Tensor Cores Used"] == "Yes"


def collective(rank, name):
    return next(one for one in rank["collectives"] if one["name"] == name)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_to_all_on_gpus_has_calls_bytes_and_times(pages, profiles, rank):
    pages.open(SIMULATED, "Distributed")
    pages.text("Communication Operations Stats")
    pages.choose(6, f"made_{rank:04d}")  # below run, view, workers, span and two steps
    for name in ("all_to_all", "all_gather"):
        wanted = collective(profiles[SIMULATED][rank], name)
        latency_us = pytest.approx(us(wanted["total_ms"]) * len(STEPS))
        row = pages.row(f"nccl:{name}")
        assert number(row["Calls"]) == wanted["calls"] * len(STEPS)
        assert number(row["Total Size (bytes)"]) == wanted["bytes"] * len(STEPS)
        assert number(row["Total Latency (us)"]) == latency_us
    # Rank 1 arrives 10 µs later, so that of rank 0's 100 µs only 90 were transfer.
    assert number(pages.row("nccl:all_to_all")["Data Transfer Time (us)"]) == 180
    assert pages.charts() > 8


def gloo_us(rank, name):
    path = f"tests/data/traces_modules/golden_{rank:04d}.pt.trace.json.gz"
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return sum(event["dur"] for event in events if event["name"] == name)


def test_all_to_all_on_cpus_has_calls_bytes_and_times(pages, profiles):
    pages.open(TINY, "Distributed")
    row = pages.row("gloo:all_to_all")
    wanted = collective(profiles[TINY][0], "all_to_all")
    assert number(row["Calls"]) == wanted["calls"] == 12
    assert number(row["Total Size (bytes)"]) == wanted["bytes"]
    # The profile counts from the launch to the end of the wait, gloo's annotation is a part of that.
    latency_us = number(row["Total Latency (us)"])
    assert latency_us == pytest.approx(gloo_us(0, "gloo:all_to_all"), abs=HALF_US)
    assert latency_us <= us(wanted["total_ms"])


def recorded_events():
    with gzip.open("tests/data/traces_modules/golden_0000.pt.trace.json.gz") as file:
        return json.load(file)["traceEvents"]


def test_memory_peaks_where_the_trace_does(pages):
    pages.open(TINY, "Memory", "golden_0000")
    peak = max(e["args"]["Total Allocated"] for e in recorded_events() if e["name"] == "[memory]")
    pages.text(f"Peak Memory Usage: {round(peak / 2**20, 1)}MB")
    assert number(pages.row("aten::mm")["Allocation Count"]) > 0
    assert pages.charts() > 0


def test_modules_are_called_as_often_as_in_the_trace(pages):
    pages.open(TINY, "Module", "golden_0000")
    calls = [event["name"] for event in recorded_events() if event.get("cat") == "python_function"]
    for name in ("FSDPCausalLM_0", "LlamaDecoderLayer_0"):
        assert number(pages.row(name)["Occurences"]) == calls.count(f"nn.Module: {name}")
    assert calls.count("nn.Module: LlamaDecoderLayer_0") == 1 + 1, "forward, and recomputed in the backward"
    pages.text("LlamaAttention_0")


def test_names_in_a_trace_are_shown_and_not_run(pages, hostile):
    for view, name in (("Operator", "op"), ("GPU Kernel", "kernel")):
        pages.open(hostile, view)
        pages.row(f"{name} {MARKUP}")
        assert pages.charts() > 0
        assert pages.driver.execute_script("return document.querySelector('img[src=x]')") is None
        assert pages.driver.execute_script("return window.isOwned") is None


SLICES = """const view = document.querySelector('tr-ui-timeline-view');
const found = [];
if (view && view.model) for (const event of view.model.getDescendantEvents()) {
  if (event.title === arguments[0]) found.push(event.duration);
}
return found.length ? found : null"""


@pytest.mark.parametrize(("run", "worker", "rank"), [(TINY, "golden_0000", 0), (SIMULATED, "made_0001", 1)])
def test_the_trace_viewer_draws_the_step(pages, profiles, run, worker, rank):
    pages.open(run, "Trace", worker)
    pages.enter("trace_embedding.html")
    rank = profiles[run][rank]
    durations_ms = pages.until(SLICES, "the first step", f"ProfilerStep#{rank['steps'][0]}")
    assert max(durations_ms) == pytest.approx(rank["step_ms"], rel=1e-3)
    pages.text("100" if run == SIMULATED else "pt_gloo_runloop")  # a track's name


def test_an_event_of_the_trace_is_selected_and_explained(pages):
    pages.open(TINY, "Trace", "golden_0000")
    pages.enter("trace_embedding.html")
    pages.until(SLICES, "the step", "ProfilerStep#3")
    select = """const view = document.querySelector('tr-ui-timeline-view');
    for (const event of view.model.getDescendantEvents()) if (event.title === 'tgsbench::backward') {
      view.brushingStateController.changeSelectionFromTimeline(new tr.model.EventSet([event]));
    } return true"""
    pages.until(select, "a selection")
    said = "return document.querySelector('tr-ui-a-analysis-view').innerText.includes('Wall Duration')"
    pages.until(said, "the analysis of the event")


def test_diff_of_two_ranks(pages):
    pages.click("DIFF")
    for box, option in enumerate((TINY, "golden_0000", "default", TINY, "golden_0001", "default")):
        pages.choose(box, option)
    row = pages.row("aten::empty")
    assert number(row["Baseline Calls"]) == number(row["Exp Calls"]) > 0
    baseline, other = (number(row[f"{name} Host Duration (us)"]) for name in ("Baseline", "Exp"))
    assert number(row["Delta Host Duration (us)"]) == pytest.approx(other - baseline)
    assert pages.charts() > 2


CARD = """const card = document.querySelector('scalar-card');
return card ? card.innerText.split(/\\s+/) : []"""


@pytest.mark.parametrize("name", ["tgs", "tflops_model", "mfu", "mem_peak_gib"])
def test_the_runs_scalars_stand_beside_the_traces(browser, address, home, name):
    series = series_of(RunDir(home / "runs" / SIMULATED))
    last = [row for row in series.steps if row.phase == "measure"][-1].figures[name]
    browser.get("about:blank")
    browser.get(f"{address.partition('#')[0]}?tagFilter=^measure/{name}$#timeseries")

    def is_shown():
        words = browser.execute_script(CARD)
        figures = [float(word) for word in words if re.fullmatch(r"\d+\.\d+", word)]
        # Kept as float32, shown with four decimals.
        is_there = any(figure == pytest.approx(last, rel=1e-7, abs=1e-4) for figure in figures)
        return SIMULATED in words and f"/{name}" in words and is_there

    wait(browser, is_shown, f"{last} on the card of {name}")
