"""Imported rows of other systems as samples that constants can be fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.planner.calibrate import Sample
from tgsbench.planner.machine import find_machine
from tgsbench.planner.plan import pick_kernel
from tgsbench.planner.workload import work_of
from tgsbench.presets import catalog
from tgsbench.results import imported
from tgsbench.results.imported import ImportedRow
from tgsbench.results.rows import Row
from tgsbench.schema.preset import Preset
from tgsbench.systems.costs import System
from tgsbench.systems.registry import find_system, systems


class ImportedSettings(Struct, frozen=True, kw_only=True):
    """What the user says of imported rows that they do not say themselves."""

    preset: str = ""
    """Preset that was trained; empty: the one that the row was imported with, or the reference settings."""
    sets: tuple[str, ...] = ()
    system: str = ""
    """System whose costs are meant; empty: the one that wrote the log."""


def imported_samples(
    root: Path, words: Sequence[str], settings: ImportedSettings, gpu: str = ""
) -> list[Sample]:
    """Rows by name, or all of one GPU (every row where none is named), as samples.

    Raises TgsError for an unknown name, and for a row that does not say enough to be planned.
    """
    known = imported.names(root)
    for word in words:
        if word not in known:
            raise TgsError(
                f"no imported row called {word!r}; {nearest(word, known)}",
                hint="tgsbench import FILE reads one",
                exit_code=ExitCode.STORE,
            )
    found = [imported.load(root / "foreign" / f"{name}.json") for name in words or known]
    wanted = catalog.find_gpu(gpu) if gpu else None
    name = wanted.name if wanted else gpu
    chosen = [item for item in found if not gpu or item.row.gpu == name]
    if not chosen:
        raise TgsError(
            f"no imported row{f' of {name}' if gpu else ''} in {root}", hint="tgsbench import FILE reads one"
        )
    return [_sample(item, settings) for item in chosen]


_UNSTEADY_SHARE = 0.1


def _unsteady(row: Row) -> bool:
    """Steps that differ so much that their median is known to a tenth at best: it counts as disturbed."""
    if row.ci95 is None or not row.tgs:
        return False
    return (row.ci95[1] - row.ci95[0]) / 2 > _UNSTEADY_SHARE * row.tgs


def _sample(item: ImportedRow, settings: ImportedSettings) -> Sample:
    row, system = item.row, _system(item, settings)
    if row.tgs is None or not row.gpu or not item.num_gpus_said:
        lacking = "TGS" if row.tgs is None else "GPU" if not row.gpu else "number of GPUs"
        raise _too_little(row, lacking, "import it again with --gpu and --num-gpus")
    machine, preset = find_machine(row.gpu), _preset(item, settings)
    machine = replace(machine, link=find_machine(row.gpu, _link(preset, row.gpu)).link)
    work = work_of(preset, pick_kernel(preset, machine.constants), system=system)
    return Sample(label=row.label, work=work, machine=machine, tgs=row.tgs, disturbed=_unsteady(row))


def _link(preset: Preset, gpu: str) -> str:
    """A preset's network is its own GPUs'."""
    return preset.hardware.link if preset.hardware.gpu == gpu else ""


def _preset(item: ImportedRow, settings: ImportedSettings) -> Preset:
    """What the row trained: the settings that are said, and over them what the row says itself."""
    row, base = item.row, settings.preset or item.preset
    said = any(text.startswith("training.checkpointing") for text in settings.sets)
    if not (base or row.checkpointing or said):
        raise _too_little(
            row, "checkpointing", "say what was trained: --preset NAME, or --set training.checkpointing=full"
        )
    own = presets.resolve(base).preset.model.name if base else ""
    sets = [] if own == row.model else [f"model={_model(row)}"]
    sets += [f"workload.seq_len={row.seq_len}", f"parallel.sp={row.sp}"]
    sets += [f"hardware.num_gpus={row.num_gpus}"]
    if row.document_mask is not None:
        sets.append(f"workload.document_mask={str(row.document_mask).lower()}")
    if row.checkpointing:
        sets.append(f"training.checkpointing={row.checkpointing}")
    return presets.resolve(base or "_reference", [*sets, *settings.sets]).preset


def _model(row: Row) -> str:
    for name in catalog.files("presets", "models"):
        if row.model in (name, catalog.load_model(name).name):
            return name
    raise _too_little(row, f"model ({row.model} is none of presets/models)", "say the preset: --preset NAME")


def _system(item: ImportedRow, settings: ImportedSettings) -> System:
    """The system that is named, or the one that wrote the log where its costs are described."""
    if settings.system:
        return find_system(settings.system)
    known = systems()
    if item.tool in known:
        return known[item.tool]
    raise _too_little(
        item.row,
        f"system ({item.tool} has no described costs)",
        f"name the one whose costs are nearest: --system {'|'.join(sorted(known))}",
    )


def _too_little(row: Row, what: str, hint: str) -> TgsError:
    return TgsError(
        f"{row.label}: its {what} is not known, so it cannot be planned", hint=hint, exit_code=ExitCode.STORE
    )
