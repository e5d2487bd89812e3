"""The device mesh: dp · sp = world, sp groups on consecutive ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tgsbench.errors import ExitCode, TgsError


@dataclass(frozen=True)
class SequenceMesh:
    """This rank's place: sp neighbours share one sequence, all ranks share the parameters."""

    world: int
    rank: int
    sp: int
    fsdp: DeviceMesh
    """dp and sp flattened: parameters, gradients and optimizer states are sharded over it."""
    sp_group: dist.ProcessGroup

    @property
    def dp(self) -> int:
        """Data-parallel size."""
        return self.world // self.sp

    @property
    def sp_rank(self) -> int:
        """Which shard of the sequence this rank holds."""
        return self.rank % self.sp

    @property
    def dp_rank(self) -> int:
        """Which sequences this rank's group trains on."""
        return self.rank // self.sp


def build_mesh(device_type: str, sp: int) -> SequenceMesh:
    """Build the mesh on an initialised process group; TgsError when sp does not divide the world."""
    world = dist.get_world_size()
    if world % sp:
        raise TgsError(
            f"dp · sp = world: {world} ranks are not divisible by sp={sp}", exit_code=ExitCode.BAD_PRESET
        )
    mesh = init_device_mesh(device_type, (world // sp, sp), mesh_dim_names=("dp", "sp"))
    return SequenceMesh(world, dist.get_rank(), sp, mesh._flatten("fsdp"), mesh["sp"].get_group())
