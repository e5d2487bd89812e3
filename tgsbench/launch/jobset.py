"""Kubernetes JobSet: one indexed job of pods, one pod a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tgsbench.launch import manifests
from tgsbench.launch.manifests import ClusterJob, ManifestOptions
from tgsbench.schema.preset import Preset

API = "jobset.x-k8s.io/v1alpha2"
"""Of JobSet 0.12."""


class JobSet:
    """A JobSet as launch/scheduler.py wants a renderer."""

    title = "JobSet"
    options = ManifestOptions

    def render(self, preset: Preset, chosen: Sequence[str], wishes: ManifestOptions, root: Path) -> str:
        """The manifest, as YAML. Raises TgsError when the job cannot be."""
        job = manifests.kubernetes_job(preset, chosen, wishes)
        spec = {
            # A run that was begun is never begun again under its name.
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [_nodes(preset, job, wishes)],
        }
        return manifests.kubernetes_yaml(self.title, API, preset, job, spec)


def _nodes(preset: Preset, job: ClusterJob, wishes: ManifestOptions) -> dict[str, Any]:
    """An indexed Job: pod i is node i."""
    nnodes = job.placement.nnodes
    indexed = {
        "completionMode": "Indexed",
        "parallelism": nnodes,
        "completions": nnodes,
        "backoffLimit": 0,
        "template": {"spec": _pod(preset, job, wishes)},
    }
    return {"name": "node", "replicas": 1, "template": {"spec": indexed}}


def _pod(preset: Preset, job: ClusterJob, wishes: ManifestOptions) -> dict[str, Any]:
    claim = manifests.claimed(wishes.claim)
    container = {
        "name": "node",
        "image": job.image,
        "command": job.argv,
        "env": [*manifests.env_list(job.env), *_place(job)],
        "resources": manifests.resources(preset, job.num_gpus),
        "volumeMounts": manifests.volume_mounts(claim, wishes.runs),
    }
    return {"restartPolicy": "Never", "containers": [container], "volumes": manifests.pod_volumes(claim)}


def _place(job: ClusterJob) -> list[dict[str, Any]]:
    """torchrun's own variables, as Kubeflow sets them for its TrainJobs: `--nodes auto` reads them."""
    host, port = manifests.meeting_point(job.name)
    index = {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
    known = {"PET_NNODES": str(job.placement.nnodes), "PET_MASTER_ADDR": host, "PET_MASTER_PORT": str(port)}
    return [*manifests.env_list(known), {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": index}}]


RENDERER = JobSet()
