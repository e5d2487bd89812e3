"""How fast are documents packed? tgsbench against XTuner 0.2.0's own Packer, A B A B, same packs out.

312,012 documents of Alpaca's lengths (six epochs) to 1M-token packs. Both sides start from one Arrow file
of tokenised documents in packing order and end with packs on disk. XTuner's side is its Packer under
`datasets.map`, as XTuner runs it; tgsbench's side also reads each pack back, with the shifted labels that
the trainer is given. A second ratio leaves files out: `Packer.__call__` alone on ready Python lists.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.packing_peer import BATCH_SIZE, SEQ_LEN
from benchmarks.pairs import ratio, store
from benchmarks.peer_venv import is_made, python_of
from tgsbench.schema import events
from tgsbench.workload import IGNORE_INDEX, PackedDataset
from tgsbench.workload.documents import LABEL_BIT, Documents, epoch_order, gather, starts_of, tokens_of
from tgsbench.workload.lengths import ALPACA_DOCUMENTS, draw_documents
from tgsbench.workload.packing import stock_bounds
from tgsbench.workload.packs import count_labels

ROOT = Path(__file__).resolve().parent.parent
# XTuner asks for datasets >= 3.2; this is the release that tgsbench is tested with too.
PEER_PACKAGES = ["datasets==5.2.0", "pillow", "requests"]
OWN_RUNS = 5
"""Runs of our side a round, averaged: one takes half a second, too short against another's noise."""
NO_DATA = events.Data(
    corpus="benchmark",
    num_documents=0,
    num_tokens=0,
    num_full=0,
    num_short=0,
    mean_pack_tokens=0.0,
    tokens_lost=0,
    tokens_padded=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    python = peer_environment()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "documents.arrow"
        num_tokens = write_documents(source)
        timed = alternate(python, source, Path(folder), args.rounds)
    own = [r.file_s for r in timed]
    rates = (num_tokens / statistics.median(times) for times in (own, [r.map_s for r in timed]))
    print("tokens/s, median: tgsbench {:,.0f}, XTuner {:,.0f}".format(*rates))
    file_names, memory_names = ("XTuner, datasets.map(Packer)", "tgsbench"), ("Packer.__call__", "tgsbench")
    by_file = ratio("packing", *file_names, [r.map_s for r in timed], own, "to reach: >= 20")
    in_memory = [r.memory_s for r in timed]
    by_call = ratio("packing in memory", *memory_names, [r.call_s for r in timed], in_memory, "not required")
    store(args.json, [by_file, by_call])


@dataclass(frozen=True)
class Round:
    """Seconds of one round."""

    file_s: float
    """tgsbench, from the Arrow file to packs read back from disk."""
    memory_s: float
    """tgsbench, from buffers to packs in memory."""
    map_s: float
    """XTuner's Packer under datasets.map, from the Arrow file to packs on disk."""
    call_s: float
    """Packer.__call__ alone, from Python lists to Python lists."""


def peer_environment() -> Path:
    """Python of the environment that holds XTuner's wheel; made at first use."""
    if sys.version_info >= (3, 13) and not is_made("xtuner_packer"):
        raise SystemExit("XTuner 0.2.0 needs Python below 3.13: run this benchmark with 3.11 or 3.12")
    return python_of("xtuner_packer", PEER_PACKAGES, ["--no-deps", "xtuner==0.2.0"])


def write_documents(path: Path) -> int:
    """Write the shuffled six epochs as XTuner's tokenised data set: input_ids int32, labels int64."""
    documents = draw_documents(ALPACA_DOCUMENTS, 32_000, seed=42)
    stream = gather(documents, epoch_order(ALPACA_DOCUMENTS, 6, seed=42))
    tokens = tokens_of(stream.coded)
    labels = np.where(stream.coded < 0, tokens, IGNORE_INDEX).astype(np.int64)
    offsets = pa.array(stream.starts.astype(np.int32))
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(tokens)),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(labels)),
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)  # as datasets writes it
    return stream.num_tokens


def alternate(python: Path, source: Path, folder: Path, rounds: int) -> list[Round]:
    """Time both sides in turn, then compare the packs."""
    argv = [str(python), str(Path(__file__).with_name("packing_peer.py")), str(source), str(folder)]
    timed = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        for index in range(-1, rounds):  # the first round warms both sides up and is dropped
            seconds = [pack(source, folder) for _ in range(OWN_RUNS)]
            file_s, memory_s = (statistics.fmean(column) for column in zip(*seconds, strict=True))
            answer = ask(peer, "save" if index == rounds - 1 else "round")
            if index >= 0:
                timed.append(Round(file_s, memory_s, answer["map_s"], answer["call_s"]))
                print(f"round {index + 1}: {timed[-1]}")
        assert peer.stdin is not None
        peer.stdin.close()
    compare(packed(read_documents(source)), folder)
    return timed


def ask(peer: subprocess.Popen[str], request: str) -> dict[str, float]:
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(request + "\n")
    peer.stdin.flush()
    answer: dict[str, float] = json.loads(peer.stdout.readline())
    return answer


def pack(source: Path, folder: Path) -> tuple[float, float]:
    """Seconds from the Arrow file to packs read back from disk, and from memory to packs in memory."""
    started = time.perf_counter()
    documents = read_documents(source)
    np.save(folder / "coded.npy", documents.coded)
    stored = Documents(np.load(folder / "coded.npy", mmap_mode="r"), documents.starts)
    read_all(packed(stored))
    middle = time.perf_counter()
    read_all(packed(documents))
    return middle - started, time.perf_counter() - middle


def packed(documents: Documents) -> PackedDataset:
    """Packs of documents that are in packing order, under the reference's settings."""
    bounds = stock_bounds(documents.starts, SEQ_LEN, BATCH_SIZE, num_proc=1)
    return PackedDataset(documents, bounds, False, count_labels(documents, bounds, False), NO_DATA)


def read_all(packs: PackedDataset) -> None:
    for index in range(packs.num_packs):
        packs.pack(index)


def read_documents(source: Path) -> Documents:
    """Flat buffers of the Arrow file, labels folded into the tokens' sign bit."""
    lengths, coded = [], []
    with pa.memory_map(str(source)) as mapped:
        for batch in pa.ipc.open_stream(mapped):  # a thousand documents, which fit the CPU's cache
            is_label = batch["labels"].flatten().to_numpy() != IGNORE_INDEX
            coded.append(batch["input_ids"].flatten().to_numpy() | is_label * LABEL_BIT)
            lengths.append(np.diff(batch["input_ids"].offsets.to_numpy()))
    return Documents(np.concatenate(coded), starts_of(np.concatenate(lengths)))


def compare(packs: PackedDataset, folder: Path) -> None:
    """Stop unless both sides made the same packs, token for token and target for target."""
    tokens, labels = np.load(folder / "input_ids.npy"), np.load(folder / "labels.npy")
    assert len(tokens) == packs.num_packs, (len(tokens), packs.num_packs)
    for index, (row, targets) in enumerate(zip(tokens, labels, strict=True)):
        own = packs.pack(index)
        assert np.array_equal(own.tokens, row), f"pack {index} differs"
        assert np.array_equal(own.labels[:-1], targets[1:]), f"labels of pack {index} differ"
    print(f"the same {packs.num_packs} packs out of both")


if __name__ == "__main__":
    main()
