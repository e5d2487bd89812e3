"""What the presets screen lists and details, as plain values; no widgets here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight
from tgsbench.launch.preflight import LocalMachine
from tgsbench.metrics.physical import SIMULATED
from tgsbench.models.flops import XTUNER
from tgsbench.models.registry import find_family
from tgsbench.models.spec import num_parameters
from tgsbench.presets import catalog
from tgsbench.presets.work import work_digest
from tgsbench.results.index import Summary
from tgsbench.schema.model import ModelShape
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import ReferenceRow
from tgsbench.tui.widgets.table import HEADING, Row

_BROKEN = "with problems"
OWN_MARK = "•"
"""Before the name of a preset of the user's own."""


@dataclass(frozen=True)
class PresetRow:
    """One preset of the list."""

    name: str
    preset: Preset | None
    """None when its file has problems."""
    references: tuple[ReferenceRow, ...]
    problem: str
    """Why it does not fit this machine, or what is wrong with its file; empty when it can run here."""
    own: str = ""
    """Path of its file when it is the user's own; empty: it ships with tgsbench."""

    @property
    def published(self) -> str:
        """XTuner's published TGS, or what happened instead."""
        row = next(iter(self.references), None)
        if row is None:
            return "-"
        return units.as_published(row.tgs) if row.tgs is not None else row.status

    @property
    def words(self) -> str:
        """What a search looks through."""
        if self.preset is None:
            return self.name.lower()
        p = self.preset
        words = [self.name, p.model.name, units.length(p.workload.seq_len), p.hardware.gpu, p.engine.name]
        said = ["" if self.problem else "fits", "own" if self.own else ""]
        return " ".join([*words, p.description, *said]).lower()


def read_rows(machine: LocalMachine) -> list[PresetRow]:
    """All presets in their order; one with a broken file is listed with its problem."""
    return [_row(name, machine) for name in presets.list_presets()]


def _row(name: str, machine: LocalMachine) -> PresetRow:
    references, own = tuple(presets.load_references().get(name, [])), _own_path(name)
    try:
        preset = presets.resolve(name).preset
        problem = preflight.machine_problem(preset, machine, preset.world_size)
    except TgsError as error:
        return PresetRow(name, None, references, error.msg, own)
    except Exception as error:  # noqa: BLE001 - whatever one file holds, the others are listed
        return PresetRow(name, None, references, f"{name}: {type(error).__name__}: {error}", own)
    return PresetRow(name, preset, references, problem, own)


def _own_path(name: str) -> str:
    path = catalog.files("presets").get(name)
    is_shipped = path is None or path.is_relative_to(catalog.shipped("presets"))
    return "" if is_shipped else str(path)


def matching(rows: Sequence[PresetRow], query: str) -> list[PresetRow]:
    """Rows that contain every word of the query."""
    words = query.lower().split()
    return [row for row in rows if all(word in row.words for word in words)]


def best_results(runs: Iterable[Summary]) -> dict[str, Summary]:
    """The fastest good run of each work that was measured: a preset's name alone says little of a run.

    Rehearsals and emulations are nobody's best.
    """
    best: dict[str, Summary] = {}
    for run in runs:
        if run.status != "ok" or run.tgs is None or run.rehearsal_of:
            continue
        if SIMULATED in run.tags or not run.work:  # made up, or nobody knows of what: nobody's best
            continue
        known = best.get(run.work)
        if known is None or (known.tgs or 0.0) < run.tgs:
            best[run.work] = run
    return best


def table_rows(rows: Sequence[PresetRow], best: dict[str, Summary]) -> list[Row]:
    """Rows of the table under one heading per model, the models in the order of their first preset."""
    groups: dict[str, list[PresetRow]] = {}
    for row in rows:
        groups.setdefault(row.preset.model.name if row.preset else _BROKEN, []).append(row)
    table: list[Row] = []
    for model, members in groups.items():
        size = _right(_parameters(members[0]), 6)
        table.append((HEADING + model, (Text(model, "bold"), size, "", "", "", "", "")))
        table += [(row.name, _cells(row, best)) for row in members]
    return table


def _parameters(row: PresetRow) -> str:
    if row.preset is None:
        return ""
    num = num_parameters(row.preset.model)
    return f"{num / 1e9:.3g}B" if num >= 1e9 else f"{num / 1e6:.3g}M"


def _cells(row: PresetRow, best: dict[str, Summary]) -> tuple[str | Text, ...]:
    name = f"{OWN_MARK if row.own else ' '} {row.name}"
    if row.preset is None:
        return (name, "", "", "", "", Text("✗ bad", "bold red"), "")
    run = best.get(work_digest(row.preset))
    mine = units.rate(run.tgs) if run and run.tgs is not None else "-"
    return (
        name,
        _right(units.length(row.preset.workload.seq_len), 6),
        _right(str(row.preset.world_size), 4),
        _right(str(row.preset.parallel.sp), 3),
        _right(row.published, 9),
        Text("✗ no", "red") if row.problem else Text("✓ yes", "green"),
        _right(mine, 9),
    )


def _right(text: str, width: int) -> str:
    return text.rjust(width)


def command_line(preset: Preset, sets: Sequence[str] = (), *, base: str = "") -> str:
    """The command that runs a preset without the UI."""
    argv = ["tgsbench", "run", "--preset", base or preset.name, "--headless"]
    for assignment in sets:
        argv += ["--set", assignment]
    return shlex.join(argv)


def detail(row: PresetRow, best: dict[str, Summary]) -> Group:
    """Whether it fits, what was published, the command, the resolved preset: most urgent first, as 80 x 24
    shows eight lines of it.
    """
    if row.preset is None:
        where = [Text(f"{OWN_MARK} your own: {row.own}")] if row.own else []
        return Group(Text(f"{row.name}\n", "bold"), Text(row.problem, "red"), *where)
    preset = row.preset
    head = Text(f"{preset.name}: ", "bold").append(f"{preset.description}\n", "not bold")
    if row.problem:
        head.append("✗ does not fit: ", "red").append(f"{row.problem}; R rehearses it\n", "not bold")
    else:
        head.append("✓ fits this machine: ", "green").append("r runs it, U tunes it\n", "not bold")
    if row.own:
        head.append(f"{OWN_MARK} your own: ").append(f"{row.own}\n", "not bold")
    run = best.get(work_digest(preset))
    if run is not None and run.tgs is not None:
        head.append(f"best here {units.rate(run.tgs)} TGS in {run.run_id}\n", "not bold")
    head.rstrip()
    command = Text("command (y copies) ", "bold").append(f"{command_line(preset)}\n", "not bold")
    return Group(head, *_published(row.references), command, _grid(_facts(preset)))


def _grid(facts: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in facts:
        grid.add_row(Text(name), Text(value))
    return grid


def _facts(preset: Preset) -> list[tuple[str, str]]:
    m, w, t, e = preset.model, preset.workload, preset.training, preset.engine
    mask = "document mask" if w.document_mask else "causal over the whole pack"
    where = f"{preset.world_size} × {preset.hardware.gpu or preset.hardware.device}"
    heads = f"{m.num_query_heads} query and {m.num_kv_heads} KV heads"
    packs = units.counted(preset.packs_per_step, "pack")
    packs += f" in {units.counted(preset.accumulation, 'micro-step')}"
    products = f", {preset.linear} products" if preset.linear else ""
    facts = [
        ("model", f"{m.name}: {m.num_layers} layers, h {m.hidden_size}, {heads}"),
        ("mesh", f"dp {preset.dp} · sp {preset.parallel.sp} = {where}"),
        ("length", f"{units.length(w.seq_len)} tokens, {mask}"),
        ("step", f"{packs}, {preset.tokens_per_step:,} tokens"),
        ("corpus", w.corpus + (f" × {w.concat}" if w.concat > 1 else "")),
        ("engine", f"{e.name}, attention {preset.attention}, kernel {e.kernel}"),
        ("memory", f"checkpointing {t.checkpointing}, offload {e.offload}, {t.compute_dtype}{products}"),
        ("measures", f"{preset.measure.steps} steps after {preset.measure.warmup} of warm-up"),
        ("profile", preset.profile or "none"),
    ]
    facts[1:1] = [("layers", text)] if (text := layer_text(m)) else []
    return facts + [("note", note) for note in preset.notes]


def layer_text(model: ModelShape) -> str:
    """What a model's layers have beside dense MLPs and attention over everything; nothing for Llama's."""
    found = []
    if (experts := model.experts) is not None:
        active = find_family(model.family).parameters(model).active / 1e9
        found.append(f"{experts.used} of {experts.num} experts a token, {active:.3g}B parameters active")
    if model.window:
        found.append(f"windows of {model.window:,} tokens")
    if model.latent is not None:
        found.append(f"latent attention, ranks {model.latent.query_rank} and {model.latent.kv_rank}")
    if model.linear is not None:
        found.append("linear attention: counted and planned, not trained")
    return "; ".join(found)


def _published(references: Sequence[ReferenceRow]) -> list[RenderableType]:
    """The systems side by side; where it ran, once when it is the same."""
    if not references:
        return [Text("nothing published for it", "dim")]
    wheres = [f"{row.num_gpus} × {row.gpu}" for row in references]
    shared = len(set(wheres)) == 1
    where = wheres[0] if shared else "different GPUs"
    title = Text("published ", "bold").append(f"on {where}", "not bold")
    grid = Table.grid(padding=(0, 1))
    for justify in ("left", *["right"] * len(references)):
        grid.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    grid.add_row("", *(Text(row.system, "dim") for row in references))
    if not shared:
        grid.add_row("  on", *map(Text, wheres))
    tgs = (row.status if row.tgs is None else units.as_published(row.tgs) for row in references)
    tflops = ("-" if row.tflops is None else units.as_published(row.tflops) for row in references)
    grid.add_row("  TGS", *tgs)
    grid.add_row(f"  TFLOPs ({XTUNER})", *tflops)
    notes = [Text(f"  {row.system}: {row.note}", "dim") for row in references if row.note]
    return [title, grid, *notes]
