"""What Prometheus reads of a run: the figures of `show`, as OpenMetrics text, from loopback."""

from __future__ import annotations

import urllib.error
import urllib.request

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from benchmarks.simulate import Scenario, rank_events, write_events
from tests.contract.test_loopback import free_port
from tests.unit.stored import store_run
from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.live.open_metrics import parse_address, serving
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import throughput
from tgsbench.schema.run import VirtualGpu

SCENARIO = Scenario(world=2, warmup=2, steps=6, step_s=3.0)
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def scraped(url, **headers):
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=OPEN_METRICS | headers), timeout=30
    ) as answer:
        return answer.read().decode()


def families(text):
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


@pytest.fixture
def run(tmp_path):
    return store_run(tmp_path, "r1", presets.resolve("tiny_cpu").preset)


def test_a_scrape_has_the_figures_of_the_events_and_the_status(run):
    write_events(run.path, SCENARIO)
    with serving(run, str(free_port())) as url:
        families(scraped(url))
        found = families(scraped(url))  # the second question reads on, and counts nothing twice
    [tgs] = found["tgsbench_tgs"]
    events = fold_events(event for rank in range(2) for event in rank_events(SCENARIO, rank))
    assert tgs.value == pytest.approx(throughput(events.complete("measure", 2), 2).median)
    assert found["tgsbench_tgs_samples"][0].value == SCENARIO.steps
    assert tgs.labels["preset"] == "tiny_cpu" and tgs.labels["kind"] == "measured"
    stands = {sample.labels["tgsbench_status"]: sample.value for sample in found["tgsbench_status"]}
    assert stands[run.result().status] == 1 and sum(stands.values()) == 1
    assert "tgsbench_mfu_ratio" not in found, "a CPU has no peak, so no MFU"


def test_a_virtual_gpu_shows_no_speed(run):
    manifest = msgspec.structs.replace(run.manifest(), virtual=VirtualGpu(gpu="H100-SXM5-80GB"))
    run.write("run.json", manifest)
    with serving(run, str(free_port())) as url:
        found = families(scraped(url))
    assert not {"tgsbench_tgs", "tgsbench_newest_tgs", "tgsbench_step_seconds"} & set(found)
    assert found["tgsbench_steps_done"][0].labels["kind"] == "virtual"


def test_only_questions_to_this_machine_are_answered(run):
    port = free_port()
    with serving(run, str(port)) as url:
        for headers, status in (({"Host": f"rebound.example:{port}"}, 403), ({"Host": ""}, 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                scraped(url, **headers)
            assert refused.value.code == status
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, data=b"x=1", timeout=30)
        assert refused.value.code == 405
        with pytest.raises(TgsError, match="metrics-port"), serving(run, str(port)):
            pass


def test_an_address_is_loopback_unless_a_host_is_named():
    assert parse_address("9400") == ("127.0.0.1", 9400)
    assert parse_address("0.0.0.0:9400") == ("0.0.0.0", 9400)
    for text in ("0", "x", "65536", "host:", "١"):
        with pytest.raises(TgsError, match="no port"):
            parse_address(text)
