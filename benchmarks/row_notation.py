"""What the words of a published row mean: parallelism, batch, checkpointing, precision; or why they are not
understood.

Nothing is skipped: every word of a row's parallelism and batch is one that is known, or the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.schema.preset import Checkpointing


class Sharding(Struct, frozen=True, kw_only=True):
    """How a row's ranks share the model and the sequence."""

    sp: int = 1
    ring: int = 1
    """Members of the ring that context parallelism sends keys and values round; part of sp."""
    zero_stage: int = 3
    shard_ranks: int = 0
    """Ranks that share one copy of what is sharded; 0: all of them."""
    regather: bool = True
    offload: str = "none"
    compiled: bool = False
    fp8: bool = False


class Batch(Struct, frozen=True):
    """Sequences of a micro-step on one rank, and micro-steps of an optimizer step."""

    micro_batch: int
    accumulation: int


_N = r"[\s=:]*(-?\d+|true|false)?"
_WORDS = (
    ("ring", r"(?:torch )?ring(?:[ _-]?(?:attention|attn|cp))?()"),
    ("tp", rf"(?:tp|tensor(?:[ _-]?parallel\w*)?){_N}"),
    ("pp", rf"(?:pp|pipeline(?:[ _-]?parallel\w*)?){_N}"),
    ("cp", rf"(?:cp|context(?:[ _-]?parallel\w*)?){_N}"),
    ("ep", rf"(?:etp|ep|expert(?:[ _-]?parallel\w*)?){_N}"),
    ("vp", rf"vpp?{_N}"),
    ("sp", rf"(?:ulysses|sp|sequence[ _-]parallel\w*){_N}"),
    ("dp", rf"(?:ddp|dp|data[ _-]parallel\w*){_N}"),
    ("zero1", r"zero1\s*=\s*(-?\d+)"),
    ("zero", r"(?:deepspeed\s+)?zero[ _-]?([123])"),
    ("fsdp", r"fsdp2(?!\d)()"),
    ("fsdp", rf"fsdp{_N}"),
    ("hsdp", r"(?:hsdp|hybrid_shard)\s*(\d+)?"),
    ("kept", r"shard_grad_op()"),
    ("fsdp", r"full_shard()"),
    ("single", r"(?:single|one|1)(?:[ _-]?gpu|[ _-]?device)?()"),
    ("compiled", r"(?:torch[._])?compiled?()"),
    ("fp8", r"(?:float8|fp8)()"),
    ("bf16", r"(?:bf16|bfloat16)()"),
    ("optimizer", r"optim(?:izer)?[ _-]offload()"),
    ("all", r"param(?:eter)?s?[ _-]offload()"),
)
"""Kind of word and how it is written; the group is its number."""
_SHARDS = {"zero1", "zero", "fsdp", "hsdp", "kept"}
_BETWEEN = re.compile(r"[\s,;/+&()]+")
_KNOWN = "the planner knows sharded data, Ulysses ranks and rings"


def read_parallelism(text: str, num_gpus: int) -> Sharding:
    """Read a row's parallelism; raises ValueError naming the first word that cannot be planned."""
    found, words = Sharding(), list(_words(text))
    for kind, number in words:
        found = _applied(found, kind, number, text, num_gpus)
    _check_sizes(found, words, text, num_gpus)
    if found.ring > 1 and found.shard_ranks:  # FSDP shards over the ranks of a ring too
        found = replace(found, shard_ranks=found.shard_ranks * found.ring)
    if found.shard_ranks and num_gpus % found.shard_ranks:
        raise ValueError(f"parallelism {text!r}: {num_gpus} GPUs in groups of {found.shard_ranks}")
    whole = found.shard_ranks in (0, num_gpus)
    return replace(found, shard_ranks=0) if whole else found


def _check_sizes(found: Sharding, words: list[tuple[str, str]], text: str, num_gpus: int) -> None:
    """Raise ValueError for sizes that do not make the GPUs, or that are not said."""
    kinds = {kind for kind, _ in words}
    if found.ring > 1 and "ring" not in kinds:
        raise ValueError(f"parallelism {text!r}: cp {found.ring}, and not that it is a ring; {_KNOWN}")
    if "ring" in kinds and found.ring == 1:
        raise ValueError(f"parallelism {text!r}: a ring of unknown size; {_KNOWN}")
    if num_gpus % found.sp:
        raise ValueError(f"parallelism {text!r}: {num_gpus} GPUs are no multiple of sp={found.sp}")
    across = {"dp": found.sp} | ({"fsdp": found.ring} if found.ring > 1 else {})
    for kind, number in words:
        if kind in across and number.isdecimal() and int(number) * across[kind] != num_gpus:
            and_cp = f" and cp {across[kind]}" if across[kind] > 1 else ""
            raise ValueError(f"parallelism {text!r}: {kind} {number}{and_cp} does not make {num_gpus} GPUs")
    if num_gpus > 1 and ("dp" in kinds or found.ring > 1) and not kinds & _SHARDS:
        raise ValueError(f"parallelism {text!r}: what data parallelism shards is not said")


def _words(text: str) -> Iterator[tuple[str, str]]:
    """(kind, number) of every word; raises ValueError at the first unknown one."""
    rest = _BETWEEN.sub(" ", text.lower()).strip()
    while rest:
        tries = ((kind, re.match(rf"{pattern}(?![\w.])\s*", rest)) for kind, pattern in _WORDS)
        kind, match = next(((k, m) for k, m in tries if m), ("", None))
        if match is None:
            raise ValueError(f"parallelism {text!r}: {rest.split()[0]!r} is not understood; {_KNOWN}")
        yield kind, match[1] or ""
        rest = rest[match.end() :]


def _applied(found: Sharding, kind: str, number: str, text: str, num_gpus: int) -> Sharding:
    if number.startswith("-") and number != "-1":
        raise ValueError(f"parallelism {text!r}: {kind} {number} is not understood; {_KNOWN}")
    if (kind in ("tp", "pp", "ep") and number != "1") or (kind == "cp" and not number.isdecimal()):
        raise ValueError(f"parallelism {text!r}: {kind} {number or 'of unknown size'}; {_KNOWN}")
    if kind == "single" and num_gpus != 1:
        raise ValueError(f"parallelism {text!r} on {num_gpus} GPUs")
    if kind == "sp":
        return replace(found, sp=found.ring * (int(number) if number else 1))
    if kind == "cp":
        return replace(found, sp=found.sp // found.ring * int(number), ring=int(number))
    if kind == "zero1":
        return replace(found, zero_stage=1, shard_ranks=max(0, int(number)))
    if kind == "zero":
        return replace(found, zero_stage=int(number))
    if kind == "fsdp":
        if number == "false":
            return found
        ranks = int(number) if number.isdecimal() else 0
        return replace(found, zero_stage=3, shard_ranks=ranks)
    if kind == "hsdp":
        return replace(found, zero_stage=3, shard_ranks=int(number) if number else min(8, num_gpus))
    if kind in ("optimizer", "all"):
        return replace(found, offload="all" if "all" in (kind, found.offload) else kind)
    flags = {"kept": {"regather": False}, "compiled": {"compiled": True}, "fp8": {"fp8": True}}
    return replace(found, **flags.get(kind, {}))


_BATCHES = (
    r"(?P<tokens>[\d.,]+)\s*(?P<scale>[km])?\s*tokens?;?",
    r"micro_num[ =:]*(?P<accumulation>\d+)",
    r"micro_bsz[ =:]*(?P<micro>\d+)",
    r"micro[ =:]*(?P<micro>\d+)(?:\s*x\s*(?:accum\w*\s*)?(?P<accumulation>\d+))?",
    r"accum\w*[ =:]*(?P<accumulation>\d+)",
    r"(?P<sequences>\d+) sequences? a step",
    r"(?:gbs|global(?:[ _-]batch)?(?:[ _-]size)?)[ =:]*(?P<sequences>\d+)",
    r"(?:mbs|local (?:bs|batch)(?:[ _-]size)?)[ =:]*(?P<micro>\d+)",
    r"(?:bs|batch(?:[ _-]size)?)[ =:]*(?P<micro>\d+)\s*/\s*gpu",
    r"(?:bs|batch(?:[ _-]size)?)[ =:]*(?P<bare>\d+)",
    r"^(?P<bare>\d+)$",
)


def read_batch(text: str, num_gpus: int, sp: int, seq_len: int, *, is_global: bool = False) -> Batch:
    """Read a row's batch; raises ValueError when micro-batch or accumulation cannot be told.

    `is_global` says what a bare "batch size N" counts.
    """
    said = _batch_words(text)
    groups = num_gpus // sp
    if "bare" in said:
        key = "sequences" if is_global else "micro"
        if key == "micro" and num_gpus > 1 and said["bare"] >= groups:
            raise ValueError(f"batch {text!r}: of one GPU or of all is not said")
        said[key] = said.pop("bare")
    if "tokens" in said:
        said.setdefault("sequences", max(1, round(said["tokens"] / seq_len)))
    per_group = None
    if "sequences" in said:
        per_group = max(1, round(said["sequences"] / groups))
    micro, accumulation = said.get("micro"), said.get("accumulation")
    if micro is None and per_group == 1:
        micro = 1
    if micro is None:
        raise ValueError(f"batch {text!r}: the micro-batch is not said")
    if accumulation is None:
        accumulation = 1 if per_group is None else max(1, per_group // micro)
    if per_group is not None and not 0.8 <= micro * accumulation / per_group <= 1.25:
        raise ValueError(f"batch {text!r}: {micro} x {accumulation} on {groups} groups is another batch")
    return Batch(micro, accumulation)


def _batch_words(text: str) -> dict[str, int]:
    """Figure by what it counts; raises ValueError at the first word that is not known."""
    rest, said = text.lower().strip(), {}
    while rest := re.sub(r"^[\s,;x]+", "", rest):
        match = next((m for m in (re.match(p, rest) for p in _BATCHES) if m), None)
        if match is None:
            raise ValueError(f"batch {text!r}: {rest!r} is not understood")
        values = {key: value for key, value in match.groupdict().items() if value}
        scale = {"k": 1e3, "m": 2**20}.get(values.pop("scale", ""), 1)
        said |= {key: round(float(value.replace(",", "")) * scale) for key, value in values.items()}
        rest = rest[match.end() :]
    return said


def read_checkpointing(text: str) -> tuple[Checkpointing, bool]:
    """Mode, and whether checkpoints go to the host; raises ValueError for words that name no known mode."""
    if re.search(r"\d\s*(?:%|/|of)|\bof\b|\bevery\b", text):
        raise ValueError(f"activation checkpointing {text!r}: a share of the layers is not planned")
    word = re.sub(r"\s*\(.*\)$", "", text.strip().lower())
    if word in ("yes", "full", "true", "1", "recompute"):
        return "full", False
    if word in ("offload", "yes, offloaded", "full, offloaded"):
        return "full", True
    if word in ("no", "none", "false", "0"):
        return "none", False
    if word.startswith("selective"):
        return "selective", False
    raise ValueError(f"activation checkpointing {text!r} is not understood")


_EXPERTS = r"\bmoe\b|mixture of experts|-a\d+(?:\.\d+)?b\b"
_REFUSED = {
    r"\bq?lora\b|\bpeft\b|\bdora\b": "trains adapters, not all parameters",
    r"\brl\b|\bgrpo\b|\bppo\b|\bdpo\b": "reinforcement learning runs more than a training step",
    _EXPERTS: "a mixture of experts, whose experts the row does not describe",
    r"counts? padding": "its tokens count padding",
    r"\bnvfp4\b|\bmxfp4\b|\bfp4\b": "trained in 4 bits",
    r"\blinear attention\b|\bmamba\b|\bwindow(?:ed)?\b": "not every token attends to all before it",
    r"\bcumulative\b": "what it takes over from other rows is not in it",
}


def refuse_other_training(words: str, *, experts_known: bool = False) -> None:
    """Raise ValueError for a row whose words name a training that is not planned.

    `experts_known`: its model is described elsewhere.
    """
    for pattern, why in _REFUSED.items():
        known = experts_known and pattern == _EXPERTS
        match = None if known else re.search(pattern, words.lower())
        if match:
            raise ValueError(f"{match[0]!r}: {why}")


def is_one_micro_step(text: str) -> bool:
    """Is the batch of one step of one micro-batch, whose size its time says?"""
    return bool(re.fullmatch(r"(?:one )?micro[ -]?batch step", text.strip().lower()))


def seconds_of_micro_step(note: str) -> float | None:
    """Seconds that a note gives for one micro-batch."""
    match = re.search(r"(\d+(?:\.\d+)?) s (?:per|a) micro[ -]?batch", note.lower())
    return float(match[1]) if match else None


def chunks_loss(note: str) -> bool:
    """Does a note say that logits exist a chunk at a time?"""
    return bool(re.search(r"chunked (?:nll|ce|cross|loss)|linear cross[ -]entropy", note.lower()))


def is_fp8(words: str) -> bool:
    """Do these words say that layers run in FP8?"""
    text = re.sub(r"none \(bfloat16\)", "", words.lower())
    return bool(re.search(r"fp8|float8", text))


def says_yes(name: str, words: str) -> bool:
    """Is there `name=yes` in these words?"""
    return bool(re.search(rf"\b{re.escape(name)}\s*=\s*(?:yes|true)\b", words, re.IGNORECASE))
