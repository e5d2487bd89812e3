"""Manifests start the same preset elsewhere, hold against the published schemas, and refuse what cannot be.

The schemas in tests/data/manifests are those of Kubeflow Trainer 2.2.1, JobSet 0.12.0 (their CRDs) and
SkyPilot 0.14.1, without descriptions and without parts that no manifest of ours touches; a field that they
do not know is an error.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jsonschema
import msgspec
import pytest

from tests.contract.cli import ROOT, tgsbench
from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch import manifests, nodes, schedulers
from tgsbench.launch.manifests import ManifestOptions
from tgsbench.launch.skypilot import accelerator
from tgsbench.presets.catalog import load_gpus

SCHEMAS = ROOT / "tests" / "data" / "manifests"
KINDS = sorted(schedulers.MANIFESTS)
WISHES = ManifestOptions(image="ghcr.io/me/tgsbench:0.2", claim="runs", name="speed")


def rendered(kind, name="llama2_70b_1M", wishes=WISHES, sets=()):
    preset = presets.resolve(name, list(sets)).preset
    chosen = nodes.preset_options(name, sets, rehearse=False)
    text = schedulers.renderer(kind).render(preset, chosen, wishes, Path("runs"))
    return text, msgspec.yaml.decode(text)


def argv_of(kind, document):
    if kind == "skypilot":
        return shlex.split(document["run"])
    if kind == "trainjob":
        return document["spec"]["trainer"]["command"]
    return pod_of(document)["containers"][0]["command"]


def pod_of(document):
    return document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["llama2_70b_1M", "llama2_7b_8k", "tiny_cpu", "qwen3_30b_a3b_8k"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_holds_against_its_published_schema(kind, name):
    _, document = rendered(kind, name, sets=["measure.steps=3"])
    jsonschema.validate(document, json.loads((SCHEMAS / f"{kind}.json").read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_refuse_what_the_clusters_would(kind):
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    _, document = rendered(kind)
    inner = document if kind == "skypilot" else document["spec"]
    inner["num_machines"] = 8
    with pytest.raises(jsonschema.ValidationError, match="num_machines"):
        jsonschema.validate(document, schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_runs_the_same_preset_and_finds_its_own_place(kind):
    argv = argv_of(kind, rendered(kind, sets=["measure.steps=3"])[1])
    assert argv[:6] == ["tgsbench", "run", "--preset", "llama2_70b_1M", "--set", "measure.steps=3"]
    assert argv[argv.index("--nodes") + 1] == "auto"
    assert argv[argv.index("--name") + 1] == "speed" and argv[argv.index("--output") + 1] == "/runs"
    assert "--nodes" not in argv_of(kind, rendered(kind, "llama2_7b_8k")[1]), "one machine meets nobody"


def test_nodes_and_gpus_follow_the_preset_or_the_machines_that_are_there():
    eight = rendered("trainjob")[1]["spec"]["trainer"]
    assert (eight["numNodes"], eight["resourcesPerNode"]) == (8, {"limits": {"nvidia.com/gpu": 8}})
    wishes = msgspec.structs.replace(WISHES, gpus_per_node=4)
    document = rendered("trainjob", wishes=wishes)[1]
    assert document["spec"]["trainer"]["numNodes"] == 16
    assert "hardware.gpus_per_node=4" in argv_of("trainjob", document)
    task = rendered("skypilot", wishes=wishes)[1]
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (16, "A100-80GB:4")
    assert rendered("jobset", "tiny_cpu")[1]["spec"]["replicatedJobs"][0]["replicas"] == 1
    assert not pod_of(rendered("jobset", "tiny_cpu")[1])["containers"][0]["resources"]


def test_a_jobset_tells_its_pods_what_kubeflows_controller_would():
    env = {each["name"]: each for each in pod_of(rendered("jobset")[1])["containers"][0]["env"]}
    assert env["PET_NNODES"]["value"] == "8"
    assert env["PET_MASTER_ADDR"]["value"] == "speed-node-0-0.speed"
    assert "job-completion-index" in env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_results_land_on_the_shared_volume():
    patch = rendered("trainjob")[1]["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]
    pods = [pod_of({"spec": patch["template"]["spec"]}), pod_of(rendered("jobset")[1])]
    for pod in pods:
        assert {"name": "runs", "mountPath": "/runs"} in pod["containers"][0]["volumeMounts"]
        assert {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]
    assert rendered("skypilot")[1]["volumes"] == {"/runs": "runs"}


def test_the_name_of_a_job_is_one_that_kubernetes_takes_and_of_its_own():
    preset = presets.resolve("qwen3_30b_a3b_128k").preset
    names = {manifests.job_name(preset) for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 40 and manifests._LABEL.fullmatch(name) for name in names)


def test_every_gpu_that_is_known_has_a_name_at_skypilot():
    found = {gpu: accelerator(gpu) for gpu in load_gpus()}
    assert found["H100-SXM5-80GB"] == "H100" and found["A100-SXM4-80GB"] == "A100-80GB"
    assert found["RTX-PRO-6000-96GB"] == "RTXPRO6000" and found["GB200-NVL72"] == "GB200"
    assert all(name and "-" not in name.removesuffix("-80GB") for name in found.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, "--image is missing"),
        ({"image": "a b; rm"}, "no image's name"),
        ({"claim": ""}, "a runs folder that all of them see"),
        ({"claim": "../etc"}, "--claim"),
        ({"name": "Speed_1"}, "such as --name speed-1"),
        ({"name": "x" * 41}, "40 at most"),
        ({"runs": "relative"}, "absolute path"),
        ({"runs": "/a/../b"}, "absolute path"),
        ({"env": ("no value",)}, "write KEY=VALUE"),
        ({"gpus_per_node": 7}, "nearest"),
        ({"gpus_per_node": -1}, "at least 1"),
    ],
)
def test_a_wish_that_cannot_stand_in_a_manifest_is_refused(change, words):
    with pytest.raises(TgsError) as refused:
        rendered("jobset", wishes=msgspec.structs.replace(WISHES, **change))
    assert words in f"{refused.value.msg} {refused.value.hint}"


def test_a_preset_of_this_machine_is_named_where_the_nodes_find_it(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "tiny_cpu"\n')
    refused = tgsbench(tmp_path, "manifest", "mine.toml", "--for", "jobset", "--image", "me/t")
    assert refused.returncode == 2 and "--preset-file /runs/mine.toml" in refused.stderr
    done = tgsbench(
        tmp_path,
        "manifest",
        "mine.toml",
        "--for",
        "jobset",
        "--image",
        "me/t",
        "--preset-file",
        "/runs/mine.toml",
    )
    assert done.returncode == 0, done.stderr
    assert argv_of("jobset", msgspec.yaml.decode(done.stdout))[3] == "/runs/mine.toml"


def test_the_command_prints_yaml_and_names_the_kinds(tmp_path):
    done = tgsbench(tmp_path, "manifest", "llama2_7b_8k", "--for", "skypilot")
    assert done.returncode == 0 and done.stdout.startswith("# SkyPilot: tgsbench preset llama2_7b_8k")
    wrong = tgsbench(tmp_path, "manifest", "llama2_7b_8k", "--for", "nomad")
    assert wrong.returncode == 2 and "'trainjob'" in wrong.stderr
