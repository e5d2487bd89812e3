"""A result beside the published rows of its preset: better, worse, same, or why it cannot be said."""

from __future__ import annotations

from tgsbench.metrics import ratio as ratios
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import ReferenceRow
from tgsbench.schema.run import ReferenceVerdict, Tgs


def compare_with_published(preset: Preset, device: str, tgs: Tgs, row: ReferenceRow) -> ReferenceVerdict:
    """Compare a measured TGS with one published row."""
    verdict = ReferenceVerdict(tgs=row.tgs, source=f"{row.system}: {row.source}")
    verdict.reasons = differences(preset, device, row)
    if tgs.median is None or row.tgs is None:
        verdict.verdict = "not comparable" if verdict.reasons else "none"
        verdict.reasons += [] if row.tgs else [f"{row.system} ran out of memory here"]
        return verdict
    if verdict.reasons:
        verdict.verdict = "not comparable"
        return verdict
    found = ratios.of_medians(tgs.median, tgs.ci95 or (min(tgs.samples), max(tgs.samples)), row.tgs, None)
    verdict.ratio = found.value
    verdict.verdict = ratios.verdict(found)
    return verdict


def differences(preset: Preset, device: str, row: ReferenceRow) -> list[str]:
    """What keeps the run from being compared with the row."""
    if preset.rehearsal_of:
        return [f"a rehearsal of {preset.rehearsal_of}: shrunken model, length and ranks"]
    gpu = find_gpu(device)
    pairs = (
        ("GPU", gpu.name if gpu else device, row.gpu),
        ("GPUs", preset.world_size, row.num_gpus),
        ("sequence length", preset.workload.seq_len, row.seq_len),
        ("products", preset.linear or "bf16", "bf16"),
        ("document mask", preset.workload.document_mask, row.document_mask),
    )
    return [f"{what} {ours}, published {theirs}" for what, ours, theirs in pairs if ours != theirs]
