"""SkyPilot: a task that any of its clouds, Kubernetes and Slurm sites runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tgsbench.launch import manifests
from tgsbench.launch.manifests import ClusterJob, ManifestOptions
from tgsbench.schema.preset import Preset

_WITH_MEMORY: Final = {"A100-SXM4-80GB": "A100-80GB", "A100-PCIE-80GB": "A100-80GB"}
"""GPUs that SkyPilot 0.14 tells apart by their memory."""


_SETUP: Final = "command -v tgsbench  # install it here, or give an image that has it"


class SkyPilot:
    """A SkyPilot task as launch/scheduler.py wants a renderer."""

    title = "SkyPilot"
    options = ManifestOptions

    def render(self, preset: Preset, chosen: Sequence[str], wishes: ManifestOptions, root: Path) -> str:
        """The task, as YAML. Raises TgsError when the job cannot be."""
        job = manifests.job(preset, chosen, wishes)
        document: dict[str, Any] = {
            "name": job.name,
            "num_nodes": job.placement.nnodes,
            "resources": _resources(preset, job),
            "envs": job.env,
            "run": shlex.join(job.argv),
        }
        if not job.image:
            document["setup"] = _SETUP
        if claim := manifests.claimed(wishes.claim):
            document["volumes"] = {wishes.runs: claim}
        submit = "Start it with `sky launch FILE`; `sky logs` shows the run's progress."
        return manifests.as_yaml(manifests.notes(self.title, preset, job, submit), document)


def accelerator(gpu: str) -> str:
    """SkyPilot's name of a GPU: `H100-SXM5-80GB` is its H100, `RTX-PRO-6000-96GB` its RTXPRO6000."""
    short = re.split(r"-(?:SXM|PCIE|NVL|HBM|\d+GB)", gpu, maxsplit=1)[0]
    return _WITH_MEMORY.get(gpu, short.replace("-", ""))


def _resources(preset: Preset, job: ClusterJob) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if job.num_gpus:
        asked["accelerators"] = f"{accelerator(preset.hardware.gpu)}:{job.num_gpus}"
    if job.image:
        asked["image_id"] = f"docker:{job.image}"
    return asked


RENDERER = SkyPilot()
