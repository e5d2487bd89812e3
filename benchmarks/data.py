"""How fast does text become packs? tgsbench against XTuner 0.2.0's own dataset path, A B A B, on one file.

Both sides start from the same JSON lines of Alpaca rows and the same tokenizer folder, write the llama2_chat
template, shuffle, and end with packs on disk; both may use every core. Seconds leave imports out and have the
start of workers in; processor seconds, of a side's processes from start to end, count less of what else a
machine is busy with. Memory is the sum of PSS over a side's processes, sampled. How far XTuner's side is, the
bars of datasets say. The text is made by seed of docstrings of Python's standard library, with one word in
fifty that occurs nowhere else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.pairs import Ratio, ratio, store
from benchmarks.peer_venv import python_of
from tgsbench.system.cores import num_cores

SEED = 42
PEER_PACKAGES = ["datasets==5.2.0", "transformers==5.24.0", "mmengine-lite==0.10.7", "pillow", "requests"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3's tokenizer cuts text."""


@dataclass(frozen=True)
class Side:
    """One run of one side."""

    seconds: float
    tokens: int
    packs: int
    peak_gib: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=1000, help="Size of the data.")
    parser.add_argument("--vocab", type=int, default=32_000, help="Tokens of the tokenizer, at most.")
    parser.add_argument("--seq-len", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ours", "theirs"), help="One side alone.")
    parser.add_argument("--own", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.own:
        own_side(*args.own)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, tokenizer = Path(folder) / "data.jsonl", Path(folder) / "tokenizer"
        write_tokenizer(tokenizer, args.vocab)
        write_data(data, args.mb * 1_000_000)
        size, load = data.stat().st_size, os.getloadavg()[0]
        print(f"{size:,} bytes, {num_cores()} cores, load {load:.1f}", flush=True)
        rounds = [turn(Path(folder), data, tokenizer, args, index) for index in range(args.rounds)]
    if not args.only:
        store(args.json, [compared(rounds, kind) for kind in ("seconds", "cpu_s")])


def compared(rounds: list[list[Side]], kind: str) -> Ratio:
    """XTuner's seconds, or processor seconds, for one of ours."""
    theirs, ours = ([getattr(side, kind) for side in sides] for sides in zip(*rounds, strict=True))
    what = "text to packs" + (", processor seconds" if kind == "cpu_s" else "")
    return ratio(what, "XTuner, process_hf_dataset", "tgsbench", theirs, ours, "to reach: >= 3")


def turn(folder: Path, data: Path, tokenizer: Path, args: argparse.Namespace, index: int) -> list[Side]:
    """One run of each side, each with nothing kept from before."""
    sides = []
    if args.only != "ours":
        python = python_of("xtuner_data", PEER_PACKAGES, ["--no-deps", "xtuner==0.2.0"])
        script = str(Path(__file__).with_name("data_peer.py"))
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            words = [str(data), str(tokenizer), cache, str(args.seq_len), str(num_cores())]
            sides.append(run([str(python), script, *words], {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}))
    if args.only != "theirs":
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            own = ["--own", str(data), str(tokenizer), str(args.vocab), str(args.seq_len)]
            sides.append(run([sys.executable, "-m", "benchmarks.data", *own], {"XDG_CACHE_HOME": cache}))
    print(f"round {index + 1}, load {os.getloadavg()[0]:.1f}: " + "; ".join(map(told, sides)), flush=True)
    return sides


def told(side: Side) -> str:
    rate = side.tokens / side.seconds
    return (
        f"{side.seconds:.1f} s ({side.cpu_s:.1f} s of processors), {rate:,.0f} tokens/s, {side.packs} packs, "
        f"peak {side.peak_gib:.2f} GiB"
    )


def run(argv: list[str], env: dict[str, str]) -> Side:
    """Run one side and watch its memory."""
    before = processor_s()
    with subprocess.Popen(argv, env=os.environ | env, stdout=subprocess.PIPE, text=True) as process:
        peak = [0]
        watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
        watcher.start()
        out, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{argv[0]} ended with {process.returncode}")
    found = json.loads(out.splitlines()[-1])
    used = processor_s() - before
    return Side(found["seconds"], found["tokens"], found["packs"], peak[0] / 2**30, used)


def processor_s() -> float:
    """Of all processes that ended below this one, imports included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        total = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
        peak[0] = max(peak[0], total)
        time.sleep(0.5)


def own_side(data: str, tokenizer: str, vocab: str, seq_len: str) -> None:
    from tgsbench.presets.resolve import resolve
    from tgsbench.workload import prepare

    own = [f"workload.corpus={data}", f"workload.tokenizer={tokenizer}", f"model.vocab_size={vocab}"]
    preset = resolve("tiny_cpu", [*own, f"workload.seq_len={seq_len}"]).preset
    started = time.perf_counter()
    packs = prepare(preset, 1, lambda _line: None)
    seconds = time.perf_counter() - started
    done = {"seconds": seconds, "tokens": packs.data.num_tokens, "packs": packs.num_packs}
    print(json.dumps(done))


def write_data(path: Path, num_bytes: int) -> None:
    """Alpaca rows with answers of log-normal length, median 100 words."""
    from tgsbench.workload import pydoc

    rng = random.Random(SEED)
    words = " ".join(row.output for row in pydoc.read_rows()).split(" ")
    written = 0
    with path.open("w") as file:
        while written < num_bytes:
            at, length = rng.randrange(len(words) - 4000), min(3000, int(rng.lognormvariate(4.6, 0.8)))
            text = words[at : at + length + 15]
            for index in range(rng.randrange(50), len(text), 50):
                text[index] = f"{rng.getrandbits(32):x}"
            row = {"instruction": " ".join(text[:15]), "input": "", "output": " ".join(text[15:])}
            written += file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level BPE that cuts as Llama 3's, trained on the standard library, as transformers saves it."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence([split, byte_level]), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))[:1500]
    bpe.train_from_iterator((path.read_text("utf-8", "replace") for path in sources), trainer)
    folder.mkdir()
    bpe.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main()
