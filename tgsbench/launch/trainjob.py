"""Kubeflow Trainer: a TrainJob over the runtime `torch-distributed`, which every installation has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tgsbench.launch import manifests
from tgsbench.launch.manifests import ManifestOptions
from tgsbench.schema.preset import Preset

API = "trainer.kubeflow.org/v1alpha1"
"""Of Kubeflow Trainer 2.2; its controller sets PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and _PORT."""
RUNTIME = "torch-distributed"
_MANAGER = "tgsbench.io/manifest"
"""Who patches the runtime: one entry an owner, a domain-like name."""


class TrainJob:
    """A TrainJob as launch/scheduler.py wants a renderer."""

    title = "TrainJob"
    options = ManifestOptions

    def render(self, preset: Preset, chosen: Sequence[str], wishes: ManifestOptions, root: Path) -> str:
        """The manifest, as YAML. Raises TgsError when the job cannot be."""
        job = manifests.kubernetes_job(preset, chosen, wishes)
        trainer: dict[str, Any] = {
            "image": job.image,
            "command": job.argv,
            "env": manifests.env_list(job.env),
            "numNodes": job.placement.nnodes,
            # One process a node: tgsbench starts that node's ranks itself.
            "numProcPerNode": 1,
        }
        if asked := manifests.resources(preset, job.num_gpus):
            trainer["resourcesPerNode"] = asked
        spec = {
            "runtimeRef": {"name": RUNTIME},
            "trainer": trainer,
            "runtimePatches": [_volumes(manifests.claimed(wishes.claim), wishes.runs)],
        }
        return manifests.kubernetes_yaml(self.title, API, preset, job, spec)


def _volumes(claim: str, folder: str) -> dict[str, Any]:
    """The runs folder and shared memory, put into the runtime's pods."""
    container = {"name": "node", "volumeMounts": manifests.volume_mounts(claim, folder)}
    pod = {"volumes": manifests.pod_volumes(claim), "containers": [container]}
    node = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {"manager": _MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}}}


RENDERER = TrainJob()
