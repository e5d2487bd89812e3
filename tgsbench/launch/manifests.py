"""What manifests of container clusters have in common: wishes, a node's command, Kubernetes' pods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.nodes import DEFAULT_PORT, Placement, job_environment, new_name, place
from tgsbench.presets.catalog import preset_path, shipped
from tgsbench.schema.preset import Preset
from tgsbench.units import GIB

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""RFC 1123: names of Kubernetes' objects, which also become host names."""
_MAX_NAME = 40
"""Of a job's name: Kubernetes appends `-node-0-12` and five letters of its own to at most 63."""
_EXAMPLE = "ghcr.io/me/tgsbench:0.2"
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
RUNS_VOLUME = "runs"
_SHARED_MEMORY = 16 * GIB
"""Bytes of /dev/shm, where NCCL and data loaders exchange: containers get 64 MiB unless it is said."""


class ManifestOptions(Struct, frozen=True, kw_only=True):
    """What the user wants of a container cluster; empty: left to the cluster."""

    image: Annotated[
        str, Meta(description="Container image with tgsbench in it.", extra={"metavar": "IMAGE"})
    ] = ""
    gpus_per_node: Annotated[int, Meta(description="GPUs of one machine (default: the preset's).")] = 0
    name: Annotated[str, Meta(description="Name of the job and its run (default: time and preset).")] = ""
    env: Annotated[
        tuple[str, ...],
        Meta(description="Variable of the ranks, e.g. NCCL_IB_HCA=mlx5.", extra={"metavar": "KEY=VALUE"}),
    ] = ()
    runs: Annotated[
        str, Meta(description="Where the shared runs folder is mounted.", extra={"metavar": "FOLDER"})
    ] = "/runs"
    preset_file: Annotated[
        str, Meta(description="Where nodes find a preset that is not shipped, e.g. /runs/mine.toml.")
    ] = ""
    claim: Annotated[
        str,
        Meta(
            description="Volume of the runs: Kubernetes' claim, SkyPilot's volume.",
            extra={"metavar": "NAME"},
        ),
    ] = ""


class ClusterJob(Struct, frozen=True):
    """A preset as a job of a container cluster, checked."""

    name: str
    placement: Placement
    image: str
    env: dict[str, str]
    argv: list[str]
    """What each node runs; it finds its place in the launcher's variables."""
    num_gpus: int
    """Of one node; 0 on CPUs."""


def job(preset: Preset, chosen: Sequence[str], wishes: ManifestOptions) -> ClusterJob:
    """The preset as a job. `chosen`: the words of `tgsbench run` that choose the preset.

    Raises TgsError when the ranks do not spread over the nodes, or a wish cannot stand in a manifest.
    """
    if wishes.image and not _IMAGE.fullmatch(wishes.image):
        raise TgsError(f"--image {wishes.image!r} is no image's name", hint=f"such as --image {_EXAMPLE}")
    placement = _placement(preset, wishes)
    name, folder = _checked_name(wishes.name or job_name(preset)), _folder(wishes.runs, "--runs")
    argv = ["tgsbench", "run", *_in_the_image(chosen, wishes.preset_file), "--headless", "--output", folder]
    argv += ["--set", f"hardware.gpus_per_node={wishes.gpus_per_node}"] * bool(wishes.gpus_per_node)
    argv += ["--name", name] + ["--nodes", "auto"] * (placement.nnodes > 1)
    num_gpus = placement.nproc_per_node if preset.hardware.device == "cuda" else 0
    return ClusterJob(name, placement, wishes.image, job_environment(preset, wishes.env), argv, num_gpus)


def _placement(preset: Preset, wishes: ManifestOptions) -> Placement:
    """Which ranks go where. Raises TgsError when they do not divide, or several nodes share no folder."""
    if wishes.gpus_per_node < 0:
        raise TgsError(f"--gpus-per-node {wishes.gpus_per_node}: at least 1")
    per_node = wishes.gpus_per_node or preset.hardware.gpus_per_node
    hardware = msgspec.structs.replace(preset.hardware, gpus_per_node=per_node)
    sized = msgspec.structs.replace(preset, hardware=hardware)
    placement = place(sized, -(-preset.world_size // per_node))
    if placement.nnodes > 1 and not wishes.claim:
        raise TgsError(
            f"{preset.name} runs on {placement.nnodes} nodes, which need a runs folder that all of them see",
            hint="name the cluster's shared volume (ReadWriteMany): --claim runs",
        )
    return placement


def job_name(preset: Preset) -> str:
    """A name of its own that Kubernetes takes: `20260101t000000-llama2-70b-8k-a1b2`."""
    stamp, *words, tag = _plain(new_name(preset)).split("-")
    body = "-".join(words)[: _MAX_NAME - len(stamp) - len(tag) - 2].strip("-")
    return f"r{stamp}-{body}-{tag}"


def kubernetes_job(preset: Preset, chosen: Sequence[str], wishes: ManifestOptions) -> ClusterJob:
    """`job`, for a cluster whose nodes have nothing but the image. Raises TgsError when none is named."""
    if not wishes.image:
        raise TgsError(
            "--image is missing: pods have nothing but their image",
            hint=f"build one from the repository's Containerfile, push it, and name it: --image {_EXAMPLE}",
            exit_code=ExitCode.USAGE,
        )
    return job(preset, chosen, wishes)


def kubernetes_yaml(kind: str, api: str, preset: Preset, job: ClusterJob, spec: dict[str, Any]) -> str:
    """An object for kubectl, with notes above it."""
    submit = "Submit it with `kubectl create -f FILE`; `kubectl logs` shows the run's progress."
    document = {"apiVersion": api, "kind": kind, "metadata": {"name": job.name}, "spec": spec}
    return as_yaml(notes(kind, preset, job, submit), document)


def as_yaml(notes: Sequence[str], document: dict[str, Any]) -> str:
    """The document with notes above it."""
    head = "".join(f"# {note}\n" for note in notes if note)
    return head + msgspec.yaml.encode(document).decode()


def notes(title: str, preset: Preset, job: ClusterJob, submit: str) -> list[str]:
    """What a reader of the file must know."""
    nodes = units.counted(job.placement.nnodes, "node")
    spread = f"{nodes} of {units.counted(job.placement.nproc_per_node, 'rank')}"
    return [f"{title}: tgsbench preset {preset.name} on {spread}.", submit, job.placement.note]


def pod_volumes(claim: str) -> list[dict[str, Any]]:
    """Volumes of a pod: shared memory, and the runs folder where a claim is given."""
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_SHARED_MEMORY // GIB}Gi"}}
    runs = {"name": RUNS_VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    return [shared, runs] if claim else [shared]


def volume_mounts(claim: str, folder: str) -> list[dict[str, Any]]:
    """Where a container sees them."""
    shared = {"name": "shm", "mountPath": "/dev/shm"}
    return [shared, {"name": RUNS_VOLUME, "mountPath": folder}] if claim else [shared]


def env_list(env: dict[str, str]) -> list[dict[str, Any]]:
    """Variables as Kubernetes lists them."""
    return [{"name": key, "value": value} for key, value in env.items()]


def resources(preset: Preset, num_gpus: int) -> dict[str, Any]:
    """What one node's container asks for; nothing on CPUs."""
    maker = "amd.com" if preset.hardware.gpu.startswith("MI") else "nvidia.com"
    return {"limits": {f"{maker}/gpu": num_gpus}} if num_gpus else {}


def meeting_point(job_name: str) -> tuple[str, int]:
    """Host name and port of a JobSet's first pod, whose replicated job is called `node`."""
    return f"{job_name}-node-0-0.{job_name}", DEFAULT_PORT


def claimed(claim: str) -> str:
    """The claim's name, checked. Raises TgsError when it could not be one."""
    if claim and not _LABEL.fullmatch(claim):
        raise TgsError(f"--claim {claim!r}: a volume's name holds a to z, digits and dashes")
    return claim


def _checked_name(name: str) -> str:
    if not _LABEL.fullmatch(name) or len(name) > _MAX_NAME:
        raise TgsError(
            f"--name {name!r}: a job's name holds a to z, digits and dashes, {_MAX_NAME} at most",
            hint=f"such as --name {_plain(name)[:_MAX_NAME].strip('-') or 'speed'}",
        )
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _folder(path: str, option: str) -> str:
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or path == "/":
        raise TgsError(f"{option} {path}: an absolute path in the container, such as /runs")
    return str(PurePosixPath(path))


def _in_the_image(chosen: Sequence[str], preset_file: str) -> list[str]:
    """The words that choose the preset, as a node of the cluster can follow them."""
    words = list(chosen)
    at = words.index("--preset") + 1
    if preset_file:
        words[at] = _folder(preset_file, "--preset-file")
    elif not words[at].endswith(".toml") and preset_path(words[at]).is_relative_to(shipped("presets")):
        return words
    else:
        name = Path(words[at]).name.removesuffix(".toml")
        raise TgsError(
            f"{name} is a preset of this machine: no image holds it",
            hint=f"copy its file into the shared folder and say where: --preset-file /runs/{name}.toml",
            exit_code=ExitCode.USAGE,
        )
    return words
