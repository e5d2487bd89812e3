"""Real input for a benchmark: corpus, packing, and each sequence-parallel rank's shard."""

from __future__ import annotations

from tgsbench.workload.packs import IGNORE_INDEX, Pack, PackedDataset
from tgsbench.workload.prepare import prepare
from tgsbench.workload.sharding import Shard, checksum, shard

__all__ = ["IGNORE_INDEX", "Pack", "PackedDataset", "Shard", "checksum", "prepare", "shard"]
