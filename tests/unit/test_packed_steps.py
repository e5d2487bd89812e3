"""Steps of a long run are summed up in little memory, and say the same as if each were kept as it is."""

import random
import tracemalloc

import msgspec
import pytest

from tgsbench.events import tail
from tgsbench.events.tail import RunTail
from tgsbench.metrics.observe import RunTotals, fold_events
from tgsbench.metrics.step_total import StepTotal
from tgsbench.schema.events import Step

WORLD = 3


def reports(num_steps, seed=0):
    """One list of reports for each rank."""
    draw = random.Random(seed)
    phases = [draw.choice(("warmup", "measure", "profile")) for _ in range(num_steps)]
    return [
        [
            Step(
                rank=rank, step=step, phase=phases[step], tokens=draw.randrange(9), labels=draw.randrange(3),
                step_s=draw.random(), loss_sum=draw.choice((1.5, float("nan"))), mem_peak=draw.randrange(99),
                seen_checksum=draw.randrange(2**61), update=draw.choice((None, 0.25)), data_s=draw.random(),
            )
            for step in range(num_steps)
        ]
        for rank in range(WORLD)
    ]  # fmt: skip


def as_it_is(events):
    totals = {}
    for event in events:
        totals.setdefault(event.step, StepTotal(event.step, event.phase)).add(event)
    for total in totals.values():
        total.reported = 0
    return [totals[step] for step in sorted(totals) if totals[step].num_ranks == WORLD]


def shuffled(events):
    random.Random(1).shuffle(events)
    return events


def rank_by_rank(events):
    return events


def step_by_step(events):
    return sorted(events, key=lambda event: event.step)


@pytest.mark.parametrize("order", [rank_by_rank, step_by_step, shuffled])
def test_packed_steps_say_what_they_said(order):
    events = order([event for own in reports(3000) for event in own])
    del events[5::700]  # some steps stay without a rank
    again = events[10::500]
    found, expected = fold_events([*events, *again], WORLD), as_it_is(events)
    for phase in ("", "warmup", "measure", "profile"):
        steps = found.complete(phase, WORLD)
        wanted = [total for total in expected if phase in ("", total.phase)]
        assert list(map(repr, steps)) == list(map(repr, wanted)), "NaN is no NaN's equal, its text is"
        assert len(steps) == len(wanted)
        assert (steps[0].step, steps[-1].step) == (wanted[0].step, wanted[-1].step)
        assert [total.step for total in steps[2:9]] == [total.step for total in wanted[2:9]]
    assert found.num_repeated == len(again)
    with pytest.raises(IndexError):
        found.complete("", WORLD)[len(expected)]


def test_counts_that_no_word_holds_are_told_as_the_largest():
    huge = [Step(rank=rank, step=step, a2a_bytes=2**63 - 1) for step in range(1024) for rank in range(WORLD)]
    first = fold_events(huge, WORLD).complete("measure", WORLD)[0]
    assert first.a2a_bytes == 2**63 - 1


def test_a_long_run_takes_little_memory():
    events = (Step(step=step, step_s=0.1 + step % 7 / 1000, mem_peak=step) for step in range(20_000))
    tracemalloc.start()
    try:
        observed = fold_events(events, 1)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(observed.complete("measure", 1)) == 20_000
    assert held < 100 * 20_000, "bytes; an object of each step takes 700"


@pytest.mark.parametrize("digest", [0, 2**62], ids=["lines as long", "longer lines of rank 0"])
def test_no_more_steps_wait_for_their_ranks_than_a_piece_of_each_file_holds(tmp_path, monkeypatch, digest):
    monkeypatch.setattr(tail.FileTail.read, "__defaults__", (4096,))
    for rank, own in enumerate(reports(2000)):
        for seq, event in enumerate(own):
            event.seq, event.loss_sum = seq, 1.5  # JSON has no NaN
            event.pack_digest = 0 if rank else digest
        lines = b"".join(msgspec.json.encode(event) + b"\n" for event in own)
        (tmp_path / f"rank{rank:05d}.jsonl").write_bytes(lines)
    observed, most = RunTotals(WORLD), 0
    for event in RunTail(tmp_path).read_all():
        observed.add(event)
        most = max(most, len(observed.steps))
    assert len(observed.complete("", WORLD)) == 2000
    assert most < 40
