"""Peak memory of the loss: chunked linear + cross-entropy against whole [tokens, V] logits.

Each way runs alone in a fresh process; its peak resident set over what it held before is compared.
In fp32: a CPU without bf16 units multiplies the logits' bf16 gradient at 0.2 GFLOPs, 200 times slower.
`python -m benchmarks.loss_memory [--tokens 8192] [--json OUT]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

HIDDEN, VOCAB = 1024, 32000


def main() -> None:
    """Measure both ways and print them side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chunk", type=int, help="measure this one chunk size here (internal)")
    args = parser.parse_args()
    if args.chunk is not None:
        print(_peak_bytes(args.tokens, args.chunk))
        return
    peaks = {chunk: _in_process(args.tokens, chunk) for chunk in (0, 4096, 2048, 512)}
    for chunk, peak in peaks.items():
        name = f"chunks of {chunk}" if chunk else "whole logits"
        print(f"{name:<15} {peak / 2**20:8.0f} MiB   {peaks[0] / peak:5.2f}x less")
    if args.json:
        args.json.write_text(json.dumps({"tokens": args.tokens, "vocab": VOCAB, "peak_bytes": peaks}) + "\n")


def _in_process(tokens: int, chunk: int) -> int:
    argv = [sys.executable, "-m", "benchmarks.loss_memory", "--tokens", str(tokens), "--chunk", str(chunk)]
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _peak_bytes(tokens: int, chunk: int) -> int:
    import torch

    from tgsbench.training.model.loss import linear_cross_entropy

    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, requires_grad=True)
    labels = torch.randint(0, VOCAB, (tokens,))
    (hidden[:8] @ weight[:8].t()).sum().backward()  # load what a first matmul loads
    hidden.grad = weight.grad = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    linear_cross_entropy(hidden, weight, labels, chunk).backward()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    main()
