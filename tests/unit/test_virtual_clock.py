"""The virtual clock on programs whose times are known: streams, events, waits, collectives, host speed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.unit.stored import a_preset
from tgsbench import presets
from tgsbench.models.family import seen_keys
from tgsbench.planner.machine import Machine, find_machine
from tgsbench.planner.network import exchange_s, ring_s
from tgsbench.planner.plan import forecast_preset
from tgsbench.planner.workload import work_of
from tgsbench.traces.analyse import analyse
from tgsbench.virtual_gpu.clock import Timeline, simulate, whole_collectives
from tgsbench.virtual_gpu.durations import LEAST_S, Durations
from tgsbench.virtual_gpu.log import Kind, Record
from tgsbench.virtual_gpu.projection import clocked, covered_s
from tgsbench.virtual_gpu.trace import write_trace

MAIN, SIDE = 0, 9


class Program:
    """Calls of a host that takes 1 s for each."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def call(self, kind: Kind, name: str = "", *args: int, stream: int = MAIN) -> Program:
        at = (len(self.records) + 1) * 10**9
        self.records.append(Record(kind, name, at, at, stream, 1, (*args, 0, 0, 0, 0)[:4]))
        return self

    def kernel(self, seconds: int, stream: int = MAIN) -> Program:
        return self.call(Kind.KERNEL, "work", seconds, stream=stream)

    def times(self, **options) -> tuple[list[tuple[float, float]], float]:
        line = simulate(self.records, lambda record: float(record.args[0]), **options)
        return [(span.begin_s, span.end_s) for span in line.spans], line.total_s


def test_work_of_one_stream_is_done_in_turn():
    spans, total_s = Program().kernel(5).kernel(5).call(Kind.SYNCHRONIZE).times()
    assert spans == [(0, 5), (5, 10)]
    assert total_s == 10


def test_two_streams_work_at_once():
    spans, total_s = Program().kernel(5).kernel(5, SIDE).call(Kind.SYNCHRONIZE).times()
    assert spans == [(0, 5), (1, 6)]
    assert total_s == 6


def test_a_stream_waits_for_what_was_before_an_events_record():
    program = Program().kernel(5).call(Kind.EVENT_RECORD, "", 77).kernel(50)
    program.call(Kind.STREAM_WAIT, "", 77, stream=SIDE).kernel(5, SIDE)
    assert program.times()[0] == [(0, 5), (5, 55), (5, 10)]


def test_an_event_that_was_never_recorded_holds_nobody():
    assert Program().call(Kind.STREAM_WAIT, "", 77).kernel(3).times()[0] == [(1, 4)]


def test_a_host_that_is_slower_than_the_device_leaves_gaps():
    spans, total_s = Program().kernel(0).kernel(0).kernel(0).times()
    assert spans == [(0, 0), (1, 1), (2, 2)]
    assert total_s == 2
    assert Program().kernel(0).kernel(0).kernel(0).times(host_speed=2.0)[1] == 1


def test_a_copy_that_the_host_waits_for_holds_what_comes_after():
    spans, _ = Program().kernel(5).call(Kind.COPY, "Memcpy DtoH", 2, 2, 1).kernel(1).times()
    assert spans == [(0, 5), (5, 7), (8, 9)]


@pytest.mark.parametrize(("what", "total_s"), [((0, 0), 50.0), ((1, 0), 6.0), ((2, 77), 5.0)])
def test_the_host_waits_for_a_device_a_stream_or_an_event(what, total_s):
    program = Program().kernel(5).call(Kind.EVENT_RECORD, "", 77).kernel(1).kernel(47, SIDE)
    assert program.call(Kind.SYNCHRONIZE, "", *what).times()[1] == total_s


def test_collectives_that_depend_on_products_are_exposed_by_what_hides_none_of_them():
    """Backward of two layers: each gradient's scatter goes to its own stream behind its product."""
    program = Program()
    for event in (1, 2):
        program.kernel(10).call(Kind.EVENT_RECORD, "", event)
        program.call(Kind.STREAM_WAIT, "", event, stream=SIDE)
        program.call(Kind.COLLECTIVE, "reduce_scatter", 15, stream=SIDE)
        program.call(Kind.EVENT_RECORD, "", 9, stream=SIDE)
    spans, total_s = program.call(Kind.STREAM_WAIT, "", 9).kernel(1).call(Kind.SYNCHRONIZE).times()
    assert spans == [(0, 10), (10, 25), (10, 20), (25, 40), (40, 41)]
    assert total_s == 41


def test_the_messages_of_one_group_call_are_one_all_to_all_and_single_ones_those_of_a_ring():
    program = Program()
    for peer in range(3):
        program.call(Kind.COLLECTIVE, "send", 4, 77, 5, peer + 1)
        program.call(Kind.COLLECTIVE, "receive", 4, 77, 5, peer + 1)
    program.call(Kind.COLLECTIVE, "send", 4, 77, 6, 1)
    program.call(Kind.COLLECTIVE, "receive", 4, 77, 6, 2)
    program.call(Kind.COLLECTIVE, "receive", 8, 77, 7, 2)
    merged = whole_collectives(program.records)
    assert [(record.name, record.args[0]) for record in merged] == [
        ("all_to_all", 12), ("send", 4), ("receive", 8),
    ]  # fmt: skip


FLASH = "void pytorch_flash::flash_{0}_kernel<Flash_{1}_kernel_traits<128, {2}, {3}, 4>, true>(Flash_params)"


def _record(kind, name="", *args) -> Record:
    return Record(kind, name, 0, 0, 0, 1, (*args, 0, 0, 0, 0)[:4])


def _durations(world=64):
    machine = find_machine("H100-SXM5-80GB")
    work = work_of(a_preset("llama2_70b_1M"), "flash2")
    groups = [_record(Kind.COMMUNICATOR, "", 77, world, 0), _record(Kind.COMMUNICATOR, "", 78, 8, 0)]
    return Durations(work, machine, groups), machine, work


def test_products_take_what_the_planner_says_of_their_shape():
    seconds, machine, _ = _durations()
    rate = machine.gpu.bf16_tflops * 1e12 * machine.constants.gemm_share
    stream = machine.gpu.memory_gb_per_s * 1e9 * machine.constants.stream_share
    m, n, k, half = 4096, 8192, 11008, machine.constants.product_half_width
    assert half > 0, "short sums cost something"
    expected = 2 * m * n * (k + half) / rate + 2 * (m * k + k * n + m * n) / stream
    assert seconds(_record(Kind.GEMM, "gemm bf16", m, n, k, 1)) == pytest.approx(expected)
    assert seconds(_record(Kind.GEMM, "gemm bf16", m, n, k, 2)) == pytest.approx(2 * expected)
    assert seconds(_record(Kind.GEMM, "gemm bf16", 1, 1, 1, 1)) == LEAST_S


def test_products_and_attention_run_at_the_stacks_own_share_of_the_cards_power():
    _, machine, work = _durations()
    stack = replace(work.system, product_share=0.5, attention_share=0.25)
    weak = Machine(
        replace(machine.gpu, power_w=machine.constants.power_w / 4), machine.link, machine.constants
    )
    plain, other = Durations(work, machine, []), Durations(replace(work, system=stack), weak, [])
    product = _record(Kind.GEMM, "gemm bf16", 1 << 15, 1 << 15, 1 << 15, 1)
    rate_share = 0.5 * 0.25**machine.constants.power_exponent
    assert other(product) == pytest.approx(plain(product) / rate_share, rel=0.03), "its traffic is as before"
    attention = _record(Kind.KERNEL, FLASH.format("fwd", "fwd", 128, 64), (1 << 17) // 128, 1 | 5 << 32, 128)
    assert other(attention) == pytest.approx(4 * plain(attention))


def test_a_product_in_fp8_runs_at_the_same_share_of_the_fp8_peak():
    seconds, machine, _ = _durations()
    rate = machine.gpu.fp8_tflops * 1e12 * machine.constants.gemm_share
    stream = machine.gpu.memory_gb_per_s * 1e9 * machine.constants.stream_share
    m, n, k, half = 8192, 4096, 4096, machine.constants.product_half_width
    expected = 2 * m * n * (k + half) / rate + (m * k + k * n + 2 * m * n) / stream
    assert machine.gpu.fp8_tflops == pytest.approx(2 * machine.gpu.bf16_tflops, rel=1e-3)
    assert seconds(_record(Kind.GEMM, "gemm fp8", m, n, k, 1)) == pytest.approx(expected)


def test_attention_takes_what_the_planner_says_of_its_grids_shape():
    seconds, machine, _ = _durations()
    speed = next(s for s in machine.constants.attention if (s.kernel, s.head_dim) == ("flash2", 128))
    length, heads = 1 << 17, 5
    flops = 2 * heads * length**2 * 128
    reached = length / (length + speed.half_len) * 1e12
    forward = _record(Kind.KERNEL, FLASH.format("fwd", "fwd", 128, 64), length // 128, 1 | heads << 32, 128)
    assert seconds(forward) == pytest.approx(flops / (speed.forward_tflops * reached))
    name = FLASH.format("bwd_dq_dk_dv_loop_seqk_parallel", "bwd", 64, 128)
    backward = _record(Kind.KERNEL, name, length // 128, 1 | heads << 32, 256)
    assert seconds(backward) == pytest.approx(2.5 * flops / (speed.backward_tflops * reached))


def test_attention_of_a_window_takes_what_its_queries_see():
    work = work_of(a_preset("gpt_oss_20b_128k"), "flash2")
    seconds = Durations(work, find_machine("H100-SXM5-80GB"), [])
    # Two launches of one step on a virtual H100: dropout, causal, local and what follows.
    traits = "Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, bf16, Traits<64, 128, 128, 4> >"
    causal, local = (
        f"void pytorch_flash::flash_fwd_kernel<{traits}, false, {words}, false, false, true, false, false>(P)"
        for words in ("true, false", "false, true")
    )
    grid = 1024, 1 | 8 << 32, 128
    whole, window = (seconds(_record(Kind.KERNEL, name, *grid)) for name in (causal, local))
    assert window / whole == pytest.approx(seen_keys(1 << 17, 128) / (1 << 16))


@pytest.mark.parametrize(("sets", "share"), [([], 2.0), (["parallel.sp=16", "parallel.ring=8"], 1.0)])
def test_a_block_that_is_not_causal_takes_all_its_pairs(sets, share):
    """Two chunks of the sequence are a square, a step of a ring has half the pairs that a member holds."""
    preset = presets.resolve("llama2_70b_1M", sets).preset
    seconds = Durations(work_of(preset, "flash2"), find_machine("H100-SXM5-80GB"), [])
    traits = "Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, bf16, Traits<128, 128, 64, 4> >"
    causal, all_pairs = (
        f"void pytorch_flash::flash_fwd_kernel<{traits}, false, {words}, false, false, true, false, false>(P)"
        for words in ("true, false", "false, false")
    )
    grid = (preset.workload.seq_len // preset.ring) // 128, 1 | 8 << 32, 128
    own, met = (seconds(_record(Kind.KERNEL, name, *grid)) for name in (causal, all_pairs))
    assert met / own == pytest.approx(share)


def test_collectives_take_what_the_planner_says_of_their_bytes_and_group():
    seconds, machine, work = _durations()
    gather = _record(Kind.COLLECTIVE, "all_gather", 1 << 24, 77)
    assert seconds(gather) == ring_s(64 * (1 << 24), 1, 64, work, machine)
    exchange = exchange_s(1 << 30, work, machine)
    across = seconds(_record(Kind.COLLECTIVE, "all_to_all", 1 << 30, 77))
    assert across == exchange.node_s + exchange.network_s
    inside = seconds(_record(Kind.COLLECTIVE, "all_to_all", 1 << 30, 78))
    assert inside < exchange.network_s


def test_elementwise_kernels_take_what_they_read_and_write():
    seconds, machine, _ = _durations()
    stream = machine.gpu.memory_gb_per_s * 1e9 * machine.constants.stream_share
    name = "vectorized_elementwise_kernel<4, CUDAFunctor_add<c10::BFloat16>, std::array<char*, 3ul> >"
    assert seconds(_record(Kind.KERNEL, name, 1, 1, 1, 10**9)) == pytest.approx(6e9 / stream)


def _line(duration=lambda record: float(record.args[0])) -> Timeline:
    program = Program().kernel(10).call(Kind.EVENT_RECORD, "", 1).call(Kind.STREAM_WAIT, "", 1, stream=SIDE)
    program.call(Kind.COLLECTIVE, "all_to_all", 6, 77, 1, stream=SIDE).kernel(4).call(Kind.SYNCHRONIZE)
    return simulate(program.records, duration)


def test_a_step_is_split_into_computing_exposed_and_idle():
    preset = a_preset("llama2_7b_128k")
    found = clocked(preset, _line(), None, 0.1)
    assert (found.compute_s, found.exposed_s, found.idle_s, found.step_s) == (14, 2, 0, 16)
    assert found.tgs == pytest.approx(preset.tokens_per_step / preset.world_size / 16)
    assert (found.tgs_low, found.tgs_high) == pytest.approx((0.9 * found.tgs, 1.1 * found.tgs))
    assert found.by_kind == {"element-wise": 14, "all_to_all": 6}
    assert covered_s([]) == 0


def test_the_slowest_of_many_ranks_is_waited_for_as_the_planner_says():
    preset = a_preset("llama2_70b_1M")
    forecast = forecast_preset(preset, "H100-SXM5-80GB")
    share = forecast.time["stragglers"] / (forecast.step_s - forecast.time["stragglers"])
    found = clocked(preset, _line(), forecast, 0.1)
    assert found.step_s == pytest.approx(16 * (1 + share))
    assert found.stragglers_s == pytest.approx(16 * share)


def test_the_step_is_a_trace_that_the_analysis_reads(tmp_path):
    path = tmp_path / "rank00000.pt.trace.json.gz"
    write_trace(path, _line(lambda record: record.args[0] / 1e3), 0, 8, {77: 8}, 1)
    profile = analyse([path], "virtual", 1)
    (exchange,) = profile.collectives
    assert exchange.name == "all_to_all"
    assert (exchange.calls, exchange.bytes) == (1, 6)
    assert profile.world_size == 8
