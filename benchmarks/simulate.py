"""Made-up event streams: for the shipped recording, load tests and demonstrations, never for results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from tgsbench.schema import events as ev

_START_UNIX = 1_780_000_000.0
"""A fixed wall clock, so that the same scenario gives the same bytes."""
_SETUP: tuple[tuple[str, float], ...] = (("init", 6.0), ("data", 11.0), ("build", 19.0))


@dataclass(frozen=True)
class Scenario:
    """What the made-up run looks like."""

    world: int = 8
    ranks_per_host: int = 8
    device: str = "simulated"
    """No GPU of this name is known: such a run has no peak, no MFU, and compares with nothing."""
    warmup: int = 3
    steps: int = 20
    profile_steps: int = 0
    step_s: float = 100.0
    jitter: float = 0.01
    tokens: int = 131072
    """Real tokens per rank and step."""
    micro_steps: int = 8
    a2a_calls: int = 2048
    a2a_bytes: int = 2**36
    mem_gib: float = 61.0
    straggler: int | None = None
    straggler_factor: float = 1.18
    straggles_from: int = 0
    gpu_period_s: float = 10.0
    heartbeat_s: float = 10.0
    fails_at_step: int | None = None
    """The last rank goes out of memory there, the others say nothing more."""
    seed: int = 7

    @property
    def total_steps(self) -> int:
        """Warm-up, measured and profiled steps."""
        return self.warmup + self.steps + self.profile_steps


def write_events(folder: Path, scenario: Scenario) -> None:
    """Write events/rankNNNNN.jsonl of every rank below the run directory `folder`."""
    events = folder / "events"
    events.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    for rank in range(scenario.world):
        lines = b"\n".join(encoder.encode(event) for event in rank_events(scenario, rank))
        (events / f"rank{rank:05}.jsonl").write_bytes(lines + b"\n")


def rank_events(scenario: Scenario, rank: int) -> Iterator[ev.Event]:
    """One rank's events in order of time, numbered."""
    events = [*_setup(scenario, rank), *_steps(scenario, rank)]
    end = events[-1].t
    events += _samples(scenario, rank, end)
    events.sort(key=lambda e: e.t)
    for seq, event in enumerate(events):
        event.rank, event.seq = rank, seq
        yield event


def _setup(scenario: Scenario, rank: int) -> list[ev.Event]:
    t0 = _clock_start(scenario, rank)
    host = f"node{rank // scenario.ranks_per_host:02}"
    local = rank % scenario.ranks_per_host
    hello = ev.Hello(
        t=t0,
        world=scenario.world,
        host=host,
        device=scenario.device,
        pid=4000 + local,
        local_rank=local,
        unix_t=_START_UNIX,
        versions={"simulated": "1"},
    )
    found: list[ev.Event] = [hello]
    t = t0
    for name, lasts_s in _SETUP:
        found.append(ev.Phase(t=t + 0.001, phase=name, note=_NOTES.get(name, "")))
        t += lasts_s
    if rank == 0:
        found.append(ev.Kernel(t=t - 0.5, name="flash2", reason="simulated"))
        found.append(
            ev.Data(
                t=t0 + 12,
                corpus="simulated",
                num_documents=312012,
                num_tokens=30_300_000,
                num_full=231,
                num_short=0,
                mean_pack_tokens=float(scenario.tokens),
                tokens_lost=6110,
                tokens_padded=0,
                note="made-up figures",
            )
        )
    return found


_NOTES = {"data": "packing the corpus", "build": "sharding parameters"}


def _clock_start(scenario: Scenario, rank: int) -> float:
    """Each host's monotonic clock starts somewhere else, as in life."""
    return 1000.0 + 517.25 * (rank // scenario.ranks_per_host)


def _steps(scenario: Scenario, rank: int) -> list[ev.Event]:
    common, own = Random(f"{scenario.seed}"), Random(f"{scenario.seed}:{rank}")
    t = _clock_start(scenario, rank) + sum(s for _, s in _SETUP)
    found: list[ev.Event] = []
    phase = ""
    for step in range(scenario.total_steps):
        if (named := _phase_of(scenario, step)) != phase:
            phase = named
            found.append(ev.Phase(t=t, phase=phase))
        if step == scenario.fails_at_step:
            return found + _failure(scenario, rank, t + scenario.step_s / 2)
        shared_s = scenario.step_s * (1 + common.gauss(0, scenario.jitter)) * _settling(step, phase)
        found.append(_step(scenario, rank, step, phase, t, shared_s, own))
        t += shared_s * (scenario.straggler_factor if _straggles(scenario, step) else 1.0)
    found.append(ev.Phase(t=t + 0.5, phase="teardown"))
    found.append(ev.Bye(t=t + 1.0))
    return found


def _phase_of(scenario: Scenario, step: int) -> str:
    if step < scenario.warmup:
        return "warmup"
    return "measure" if step < scenario.warmup + scenario.steps else "profile"


def _settling(step: int, phase: str) -> float:
    """The first step is slow (allocator, autotuning); profiled ones are a little."""
    return 1.6 if step == 0 else 1.04 if phase == "profile" else 1.0


def _straggles(scenario: Scenario, step: int) -> bool:
    return scenario.straggler is not None and step >= scenario.straggles_from


def _step(
    scenario: Scenario, rank: int, step: int, phase: str, t: float, shared_s: float, own: Random
) -> ev.Step:
    slow = rank == scenario.straggler and step >= scenario.straggles_from
    step_s = shared_s * (1 + abs(own.gauss(0, scenario.jitter / 4)))
    step_s *= scenario.straggler_factor if slow else 1.0
    labels = round(scenario.tokens * 0.69)
    loss = 1.1 + 1.9 * math.exp(-step / 9) + own.gauss(0, 0.01)
    peak = int((scenario.mem_gib + 0.4 * own.random()) * 2**30)
    return ev.Step(
        t=t + step_s,
        step=step,
        phase=phase,
        tokens=scenario.tokens,
        labels=labels,
        micro_steps=scenario.micro_steps,
        step_s=step_s,
        data_s=0.004 + 0.002 * own.random(),
        loss_sum=loss * labels,
        grad_norm=1.4 * math.exp(-step / 20),
        mem_alloc=int(peak * 0.4),
        mem_reserved=int(peak * 1.05),
        mem_peak=peak,
        a2a_calls=scenario.a2a_calls,
        a2a_bytes=scenario.a2a_bytes,
        seen_checksum=rank + 1,
        pack_checksum=scenario.world * (scenario.world + 1) // 2 if rank == 0 else 0,
        pack_tokens=scenario.tokens * scenario.world if rank == 0 else 0,
    )


def _failure(scenario: Scenario, rank: int, t: float) -> list[ev.Event]:
    if rank != scenario.world - 1:
        return []
    asked = 4 * 2**30
    error = ev.Error(
        t=t,
        kind="oom",
        msg="CUDA out of memory: tried to allocate 4.00 GiB (simulated)",
        traceback="Traceback (most recent call last):\n  …simulated…",
        exit_code=9,
        bytes_requested=asked,
    )
    return [error, ev.Bye(t=t + 0.1, status="oom")]


def _samples(scenario: Scenario, rank: int, end: float) -> list[ev.Event]:
    own, start = Random(f"{scenario.seed}:{rank}:gpu"), _clock_start(scenario, rank)
    busy_from = start + sum(s for _, s in _SETUP)
    times = _every(start, end, scenario.gpu_period_s)
    found: list[ev.Event] = [_gpu(scenario, rank, t, t >= busy_from, own) for t in times]
    found += [ev.Heartbeat(t=t) for t in _every(start, end, scenario.heartbeat_s)]
    return found


def _gpu(scenario: Scenario, rank: int, t: float, busy: bool, own: Random) -> ev.Gpu:
    throttled = busy and rank == scenario.straggler
    return ev.Gpu(
        t=t,
        util=97 + 3 * own.random() if busy else 4 * own.random(),
        power_w=(368 if throttled else 391) + 8 * own.random() if busy else 74.0,
        temp_c=(86 if throttled else 63) + own.randrange(3) if busy else 38.0,
        sm_mhz=1095.0 if throttled else 1380.0 if busy else 210.0,
        throttled="thermal" if throttled else "",
    )


def _every(start: float, end: float, period_s: float) -> list[float]:
    if period_s <= 0:
        return []
    return [start + period_s * (i + 0.5) for i in range(int((end - start) / period_s))]
