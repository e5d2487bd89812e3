"""Loaded by every Python that has this folder on PYTHONPATH: breaks the build that `verify` looks at.

TGSBENCH_TEST_BUILD names the faults, comma-separated. The product knows nothing of it: functions are
replaced in the process that the ranks are forks of.
"""

import os
import sys
import types


def labels_shifted_inside_the_shard():
    """The last position of each shard loses its target to the next rank."""
    from tgsbench.training.engines import batches

    shard = batches.shard

    def broken(*args):
        part = shard(*args)
        part.labels[-1] = -100
        return part

    batches.shard = broken


def targets_two_ahead():
    """As many labels as before, each one position late, on one rank and on many alike."""
    from tgsbench.workload import packs

    read = packs.PackedDataset.pack

    def broken(self, index):
        pack = read(self, index)
        pack.labels[:] = [*pack.labels[1:], pack.labels[0]]
        return pack

    packs.PackedDataset.pack = broken


def kv_heads_wrongly_repeated():
    """0 1 0 1 instead of 0 0 1 1."""
    from tgsbench.training.model import layer_pass
    from tgsbench.training.parallel import ulysses

    by_rank, laid_out_as = ulysses._by_rank, layer_pass.laid_out_as

    def broken(x, p):
        return by_rank(x.repeat(1, 1, p // x.shape[2], 1) if x.shape[2] < p else x, p)

    def broken_layout(to_ranks, x):
        copies = to_ranks.shape[4]
        if copies == 1:
            return laid_out_as(to_ranks, x)
        return x.repeat(1, 1, copies, 1).view(to_ranks.shape)

    ulysses._by_rank, layer_pass.laid_out_as = broken, broken_layout


def sp_silently_1():
    """Every rank trains on whole sequences."""
    from tgsbench.training import rank

    from tgsbench.training.parallel.mesh import build_mesh

    rank.mesh_of = lambda preset, device_type: build_mesh(device_type, 1)


def tokens_fed_twice():
    """Every rank of a sequence trains on its first shard."""
    from tgsbench.training.engines import batches

    shard = batches.shard
    batches.shard = lambda pack, sp_rank, *rest: shard(pack, 0, *rest)


def gradients_divided_by_dp():
    """They are averaged over dp, though the labels of all dp groups were counted already."""
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    Fsdp2Engine.forward_backward = lambda self, batch, labels: step(self, batch, labels * self.mesh.dp)


def mask_ignored():
    """Attention runs over the whole pack."""
    from tgsbench.training.attention import kernels

    kernels._with_documents = lambda q, k, v, scale, docs: kernels._causal(q, k, v, scale)


def all_to_alls_sent_again():
    """Selective checkpointing saves no all-to-all's result."""
    from tgsbench.training.model import whole_layer
    from tgsbench.training.parallel import checkpointing

    checkpointing.ALL_TO_ALL = None
    nothing = types.SimpleNamespace(from_iterable=lambda _: [])
    whole_layer.itertools = types.SimpleNamespace(chain=nothing)


def noise():
    """Gradients differ in their last bits from run to run."""
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    factor = 1 + 5e-7 * (1 + os.urandom(1)[0] / 256)
    Fsdp2Engine.forward_backward = lambda self, batch, labels: step(self, batch, labels * factor)


def learning_rate_halved():
    """The optimizer of fsdp2 takes half the step it is told."""
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.optimizer_step
    Fsdp2Engine.optimizer_step = lambda self, lr: step(self, lr / 2)


def one_rank_raises():
    """A rank ends with an exception in its first step."""
    from tgsbench.training import loop

    step = loop.Stepper.step

    def broken(self, index, phase):
        if os.environ["RANK"] == "1":
            raise ValueError("told to fail")
        return step(self, index, phase)

    loop.Stepper.step = broken


if "tgsbench.training.verify_worker" in sys.orig_argv:
    for name in filter(None, os.environ.get("TGSBENCH_TEST_BUILD", "").split(",")):
        globals()[name]()


def _break_by_folder():
    """Each rank of a run in a folder called fault-NAME breaks its own build, see builds.py."""
    import builds

    from tgsbench.training import __main__ as rank

    right = rank.main

    def main(run_dir):
        if run_dir.name.startswith("fault-"):
            getattr(builds, run_dir.name.removeprefix("fault-"))()
        return right(run_dir)

    rank.main = main


if "tgsbench.training.verify_worker" in sys.orig_argv and "TGSBENCH_TEST_BUILDS" in os.environ:
    _break_by_folder()
