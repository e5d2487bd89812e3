"""LLaMA-Factory's training on CPU ranks: `torchrun FILE CONFIG`.

DeepSpeed compiles an op of shared memory in every rank (minutes on few cores) that only inference calls.
"""

from __future__ import annotations

import runpy


def main() -> None:
    """Leave that op out, then run LLaMA-Factory's launcher."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    runpy.run_module("llamafactory.launcher", run_name="__main__")


if __name__ == "__main__":
    main()
