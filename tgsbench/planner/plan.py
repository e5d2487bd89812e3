"""Put memory, time, error bar and verdict of one preset together."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.metrics import figures
from tgsbench.planner.counts import layer_counts
from tgsbench.planner.interval import error_bar
from tgsbench.planner.lengths import attended_length
from tgsbench.planner.machine import CPU, Machine, attention_speed, find_machine
from tgsbench.planner.memory import MemoryPlan, memory_plan, resident_bytes
from tgsbench.planner.network import exchange_passes
from tgsbench.planner.terms import term_sources
from tgsbench.planner.time import StepEstimate, step_time
from tgsbench.planner.verdict import HOST_GIB_PER_GPU, breaking_item, host_fits, item_in_words, verdict_of
from tgsbench.planner.workload import StepWorkload, work_of
from tgsbench.presets import catalog
from tgsbench.schema.forecast import Forecast, PlannedMemory, TgsRange, Verdict
from tgsbench.schema.hardware import Constants, GpuSpec
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import ReferenceRow
from tgsbench.systems.costs import System
from tgsbench.systems.registry import costs_of, find_system, system_of
from tgsbench.units import GIB, gib, percent

_ALIASES = {"sdpa": "flash2", "varlen": "flash2"}
"""Kernels whose published speed is another's: torch's SDPA and varlen run FlashAttention 2."""
RING_KERNEL = "flash2"
"""What a ring's blocks run on: torch's own flash attention, which gives the log-sum-exp."""
_IN_STOCK_TORCH = ("cudnn", "flash2", "sdpa")


class Estimate(Struct, frozen=True, kw_only=True):
    """Numbers of one preset, before they are put into words; cheap enough for a search."""

    work: StepWorkload
    machine: Machine
    memory: MemoryPlan
    verdict: Verdict
    time: StepEstimate | None

    @property
    def tgs(self) -> float | None:
        """Tokens per GPU per second; None without constants."""
        return None if self.time is None else figures.tgs_of_gpu(self.work.tokens_per_gpu, self.time.step_s)


def machine_of(preset: Preset, gpu: str = "", link: str = "") -> Machine:
    """The machine a preset names, or another one.

    Raises TgsError when neither the preset nor `gpu` names a GPU, or a name is unknown.
    """
    if preset.hardware.device == "cpu" and not gpu:
        return find_machine("cpu", link)
    name = gpu or preset.hardware.gpu
    if not name:
        raise TgsError(
            f"{preset.name} names no GPU",
            hint="add --gpu NAME; `tgsbench plan --list-gpus` lists them",
            exit_code=ExitCode.UNKNOWN_HARDWARE,
        )
    # A preset's network is its own GPUs': other GPUs stand in another cluster.
    own = preset.hardware.link if name == preset.hardware.gpu else ""
    found = find_machine(name, link or own)
    # Constants are shares of the bf16 peak; float32 products reach a sixteenth of it on an A100.
    return replace(found, constants=None) if _in_float32(preset) else found


def _in_float32(preset: Preset) -> bool:
    return preset.training.compute_dtype == "float32"


def estimate(preset: Preset, machine: Machine, system: System | None = None) -> Estimate:
    """Memory, verdict and time of one preset; `system` replaces the preset's engine."""
    ring_kernel = (system.ring_kernel if system else "") or RING_KERNEL
    kernel = pick_kernel(preset, machine.constants, ring_kernel)
    on_cpu = machine.gpu.name == CPU.name
    work = work_of(preset, kernel, system=system, on_cpu=on_cpu)
    return timed(work, machine, memory_plan(work))


def timed(work: StepWorkload, machine: Machine, memory: MemoryPlan) -> Estimate:
    """Verdict and time of work whose memory is planned."""
    time = None if machine.constants is None else step_time(work, machine)
    verdict = verdict_of(memory, machine.gpu)
    return Estimate(work=work, machine=machine, memory=memory, verdict=verdict, time=time)


def states_bytes(preset: Preset) -> float:
    """Bytes of parameters and optimizer states on each GPU, whatever else a step needs."""
    work = work_of(preset, preset.engine.kernel, on_cpu=preset.hardware.device == "cpu")
    return resident_bytes(work)


def pick_kernel(preset: Preset, constants: Constants | None, ring_kernel: str = RING_KERNEL) -> str:
    """The attention kernel to plan with: the named one, or for `auto` the fastest in stock PyTorch.

    `ring_kernel` is what blocks of a ring, or of chunks, run on, whatever is named.
    """
    name = preset.engine.kernel
    if constants is None:
        return name
    known = {speed.kernel for speed in constants.attention}
    if (preset.ring > 1 or preset.engine.sequence_chunks > 1) and ring_kernel in known:
        return ring_kernel
    if name != "auto":
        return name if name in known else _ALIASES.get(name, name)
    allowed = [kernel for kernel in _IN_STOCK_TORCH if kernel in known] or sorted(known)
    if preset.workload.document_mask:
        allowed = [kernel for kernel in allowed if kernel != "cudnn"]
    head_dim = preset.model.head_dim
    return max(allowed, key=lambda kernel: attention_speed(constants, kernel, head_dim).forward_tflops)


def forecast_preset(
    preset: Preset, gpu: str = "", *, link: str = "", system: str = "", card_gib: float | None = None
) -> Forecast:
    """Forecast one preset, without advice; a few hundred microseconds once the data files are read.

    `gpu`, `link` and `system` replace what the preset names; `card_gib` is the memory of a CPU rank.
    Raises TgsError for hardware nobody has described.
    """
    machine = machine_of(preset, gpu, link)
    if card_gib is not None:
        machine = Machine(replace(machine.gpu, memory_gib=card_gib), machine.link, machine.constants)
    found = find_system(system) if system else system_of(preset.engine)
    return assemble(preset, estimate(preset, machine, found))


def assemble(preset: Preset, numbers: Estimate) -> Forecast:
    """Turn numbers into the document that is printed and stored."""
    work, machine, tgs = numbers.work, numbers.machine, numbers.tgs
    time = None if numbers.verdict == "out of memory" else numbers.time
    items = {name: size / GIB for name, size in numbers.memory.peak.items.items()}
    times = {} if time is None else {name: s for name, s in time.items.items() if s > 0}
    on_cpu = machine.gpu.name == CPU.name
    tflops = {}
    if time is not None and tgs is not None:
        tflops = figures.tflops_by_convention(preset.model, work.attended_len, work.checkpointing, tgs)
    bar, why = tgs_range(numbers)
    return Forecast(
        preset=preset.name,
        gpu=machine.gpu.name,
        link=machine.link.name,
        num_gpus=work.world,
        dp=preset.dp,
        sp=work.sp,
        sharing=preset.sharing,
        seq_len=work.seq_len,
        engine=work.system.name,
        kernel=work.kernel,
        checkpointing=work.checkpointing,
        tokens_per_step=preset.tokens_per_step,
        tgs=bar,
        step_s=None if time is None else time.step_s,
        cost=None if bar is None else figures.cost_of(bar.estimate, machine.gpu.price_usd_per_hour),
        time=times,
        hidden={} if time is None else {name: s for name, s in time.hidden.items() if s > 0},
        tflops=tflops,
        mfu=figures.mfu(tflops.get("model"), None if on_cpu else machine.gpu, preset.linear),
        mfu_bf16=_of_bf16(preset, tflops, None if on_cpu else machine.gpu),
        linear=preset.linear,
        memory=_planned(numbers, items),
        verdict=numbers.verdict,
        reason=_reason(numbers),
        error_bar=why,
        terms=term_sources(work, machine, times, items),
        notes=_notes(preset, numbers) + _host_note(numbers),
    )


def _of_bf16(preset: Preset, tflops: dict[str, float], gpu: GpuSpec | None) -> float | None:
    """MFU over the bf16 peak beside that over the peak of FP8."""
    return figures.mfu(tflops.get("model"), gpu) if preset.linear else None


def tgs_range(numbers: Estimate) -> tuple[TgsRange | None, str]:
    """The 80 % interval of TGS and what it is made of; None without constants, or memory to run in."""
    return (None, "") if numbers.verdict == "out of memory" else speed_range(numbers)


def speed_range(numbers: Estimate) -> tuple[TgsRange | None, str]:
    """The same, as if there were memory enough."""
    if numbers.tgs is None or numbers.time is None:
        return None, ""
    return error_bar(numbers.work, numbers.machine, numbers.time, numbers.tgs, numbers.verdict)


def _planned(numbers: Estimate, items: dict[str, float]) -> PlannedMemory:
    memory, machine = numbers.memory, numbers.machine
    return PlannedMemory(
        total_gib=sum(items.values()),
        items=items,
        at=memory.peak.name,
        moments={name: size / GIB for name, size in memory.moments.items()},
        tensors_gib=memory.tensor_bytes / GIB,
        card_gib=machine.gpu.memory_gib or None,
        host_gib=memory.host_bytes / GIB,
    )


def _reason(numbers: Estimate) -> str:
    machine, total = numbers.machine, numbers.memory.peak.total
    fraction = figures.memory_fraction(total, machine.gpu)
    if fraction is None:
        return f"{gib(total)} a rank at the peak ({numbers.memory.peak.name})"
    largest = item_in_words(breaking_item(numbers.memory))
    at = numbers.memory.peak.name
    text = f"{gib(total)} of {gib(machine.gpu.memory_gib * GIB)} ({percent(fraction)}) at the peak ({at})"
    if numbers.verdict == "fits":
        return text
    return f"{text}; the largest item is {largest}"


def _host_note(numbers: Estimate) -> list[str]:
    """Host memory is no part of the verdict, for the node's is not known: a usual one's is said."""
    work, memory = numbers.work, numbers.memory
    ranks = min(work.world, work.gpus_per_node)
    if host_fits(memory, ranks):
        return []
    usual = gib(HOST_GIB_PER_GPU * GIB * ranks)
    return [
        f"offloading pins {gib(memory.host_bytes)} of host memory a node: "
        f"more than a usual node has ({usual})"
    ]


def why_no_time(preset: Preset, machine: Machine) -> tuple[str, str]:
    """What there are no constants for, and what would give some."""
    if machine.gpu.name != CPU.name and _in_float32(preset):
        why = f"constants of {machine.gpu.name} hold for bf16, not for float32 products"
        return why, "--set training.compute_dtype=bfloat16"
    why = f"no constants are known for {machine.gpu.name}"
    return why, "tgsbench plan --calibrate RUN..., on runs made with this hardware"


def published_notes(preset: Preset, numbers: Estimate) -> list[str]:
    """Beside the preset's published rows what is planned for the systems that made them."""
    machine, notes = numbers.machine, []
    for row in catalog.references_of(preset.name):
        here = (machine.gpu.name, preset.world_size, preset.workload.seq_len)
        if row.tgs is None or (row.gpu, row.num_gpus, row.seq_len) != here:
            continue
        note = f"published for {row.system}: {units.as_published(row.tgs)}"
        as_run = replace(
            preset,
            parallel=replace(preset.parallel, sp=row.sp, ring=row.ring),
            workload=replace(preset.workload, document_mask=row.document_mask),
        )
        system = _costs_of_row(row)
        bar, _ = tgs_range(estimate(as_run, machine, system)) if system else (None, "")
        if bar is not None:
            planned = f"{units.rate(bar.estimate)} ({units.rate(bar.low)} to {units.rate(bar.high)})"
            notes.append(f"{note}; planned for it here: {planned}")
        else:
            notes.append(
                f"{note}; {'' if system else 'what it costs is not known, so it is '}not planned here"
            )
    return notes


def _costs_of_row(row: ReferenceRow) -> System | None:
    """Costs of the stack that made a row: with rings, of its own way where its engine here has another."""
    return (costs_of(f"{row.system}_ring") if row.ring > 1 else None) or costs_of(row.system)


def _crosses_nodes(numbers: Estimate) -> bool:
    """Are there links between nodes that its ranks use?"""
    return numbers.work.world > numbers.work.gpus_per_node


def _linear_attention_note(work: StepWorkload) -> str:
    note = "linear attention is planned by its products and memory traffic: no row to check it on"
    trade = "; its layers trade sequence for heads, as Megatron-LM does it, and send no states"
    return note + (trade if work.ulysses > 1 else "")


def _hops_note(work: StepWorkload) -> str:
    """What two hops of keys and values leave of their bytes between nodes."""
    counts, nodes = layer_counts(work), work.kv_nodes
    straight = (counts.exchange_in - counts.exchange_out) * (nodes - 1) / nodes
    times = exchange_passes(work) * work.accumulation * work.dims.num_layers
    sizes = [gib(times * size) for size in (counts.kv_between * (nodes - 1) / nodes, straight)]
    return (
        f"k and v go once to each of {nodes} nodes and are copied inside (engine.kv_hops): one GPU sends "
        f"{sizes[0]} of them to other nodes in a step, straight it would be {sizes[1]}"
    )


def _notes(preset: Preset, numbers: Estimate) -> list[str]:
    notes, machine, system = [], numbers.machine, numbers.work.system
    constants = machine.constants
    if constants is None:
        why, remedy = why_no_time(preset, machine)
        notes.append(f"{why}: memory is planned, time is not; try: {remedy}")
    elif constants.carried_over:
        notes.append(f"constants of {machine.gpu.name} are carried over: {constants.carried_over}")
    if machine.link.fitted_on and _crosses_nodes(numbers):
        notes.append(f"network: {machine.link.description}; plan for yours with --link NAME (--list-links)")
    if preset.parallel.sp > 1 and not system.sequence_parallel:
        notes.append(f"{system.name} has no sequence parallelism: sp={preset.parallel.sp} cannot run on it")
    if numbers.work.dims.has_recurrence:
        notes.append(_linear_attention_note(numbers.work))
    if numbers.work.kv_nodes > 1:
        notes.append(_hops_note(numbers.work))
    if note := attended_length(preset.workload).note:
        notes.append(note)
    if preset.linear:
        notes.append(
            f"{preset.linear} products at {constants.fp8_gain if constants else 1.0:.2f}x the bf16 rate: of "
            "published rows, whose casts are compiled; here casts are kernels of their own"
        )
    if preset.engine.compile or preset.engine.liger:
        notes.append("fused kernels: traffic by formula, no row to check it on")
    return notes
