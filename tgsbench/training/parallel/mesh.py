"""The device mesh: dp · sp = world, sp = ring · ulysses, sp groups on consecutive ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.preset import Preset
from tgsbench.systems.kv_hops import kv_nodes
from tgsbench.training.parallel.kv_hops import KvHops


@dataclass(frozen=True)
class ExpertMesh:
    """This rank's place among those that share out experts."""

    group: dist.ProcessGroup
    """Neighbours that hold a part of the experts each."""
    shard: DeviceMesh
    """Ranks that hold the same experts: these are sharded over it."""


@dataclass(frozen=True)
class SequenceMesh:
    """This rank's place: sp neighbours share one sequence, all ranks share the parameters."""

    world: int
    rank: int
    sp: int
    fsdp: DeviceMesh
    """dp and sp flattened: parameters, gradients and optimizer states are sharded over it. With copies it has
    two dimensions: over the first are copies, over the second shards."""
    sp_group: dist.ProcessGroup
    """Ranks that trade sequence for heads: without a ring all that share a sequence."""
    ring_group: dist.ProcessGroup | None = None
    """Members of this rank's ring."""
    experts: ExpertMesh | None = None
    """Without: every rank runs all experts."""
    kv_hops: KvHops | None = None
    """Without: keys and values go straight to every rank of `sp_group`."""

    @property
    def dp(self) -> int:
        """Data-parallel size."""
        return self.world // self.sp

    @property
    def has_copies(self) -> bool:
        """Do several groups of ranks hold the same?"""
        return self.fsdp.ndim > 1

    @property
    def shard_group(self) -> dist.ProcessGroup:
        """Ranks that share one copy with this one."""
        return self.fsdp.get_group("shard") if self.has_copies else self.fsdp.get_group()

    @property
    def ring(self) -> int:
        """Members of a ring; 1 without."""
        return self.ring_group.size() if self.ring_group else 1

    @property
    def sp_rank(self) -> int:
        """Which shard of the sequence this rank holds."""
        return self.rank % self.sp

    @property
    def dp_rank(self) -> int:
        """Which sequences this rank's group trains on."""
        return self.rank // self.sp


def build_mesh(device_type: str, sp: int, ring: int = 1, shard: int = 0, ep: int = 1) -> SequenceMesh:
    """Build the mesh on an initialised process group; TgsError when sp does not divide the world.

    `ring` divides sp: neighbours trade heads, and members of a ring are sp / ring ranks apart. `shard` ranks
    hold one copy; 0: all. `ep` neighbours share out the experts.
    """
    world = dist.get_world_size()
    if world % sp:
        raise TgsError(
            f"dp · sp = world: {world} ranks are not divisible by sp={sp}", exit_code=ExitCode.BAD_PRESET
        )
    sizes = {"dp": world // sp, "ring": ring, "sp": sp // ring}
    if ring == 1:
        del sizes["ring"]
    mesh = init_device_mesh(device_type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    ring_group = mesh["ring"].get_group() if ring > 1 else None
    fsdp = mesh._flatten("fsdp")
    if shard not in (0, world):
        fsdp = init_device_mesh(device_type, (world // shard, shard), mesh_dim_names=("copies", "shard"))
    experts = _expert_mesh(device_type, world, ep) if ep > 1 else None
    return SequenceMesh(world, dist.get_rank(), sp, fsdp, mesh["sp"].get_group(), ring_group, experts)


def _expert_mesh(device_type: str, world: int, ep: int) -> ExpertMesh:
    mesh = init_device_mesh(device_type, (world // ep, ep), mesh_dim_names=("expert_shard", "ep"))
    # A mesh has no group of its own for all ranks: sp's may be the same, and traffic is told apart by groups.
    group = dist.new_group(group_desc="ep") if ep == world else mesh["ep"].get_group()
    return ExpertMesh(group, mesh["expert_shard"])


def _kv_hops(device_type: str, ulysses: int, nodes: int, kv_heads: int) -> KvHops:
    sizes = dist.get_world_size() // ulysses, nodes, ulysses // nodes
    mesh = init_device_mesh(device_type, sizes, mesh_dim_names=("kv_groups", "kv_between", "kv_inside"))
    groups = mesh["kv_between"].get_group(), mesh["kv_inside"].get_group()
    return KvHops(*groups, node_heads=max(1, kv_heads // nodes))


def mesh_of(preset: Preset, device_type: str) -> SequenceMesh:
    """The mesh that a preset asks for."""
    parallel, nodes = preset.parallel, kv_nodes(preset)
    mesh = build_mesh(device_type, parallel.sp, preset.ring, parallel.shard, parallel.ep)
    if nodes == 1:
        return mesh
    return replace(mesh, kv_hops=_kv_hops(device_type, preset.ulysses, nodes, preset.model.num_kv_heads))
