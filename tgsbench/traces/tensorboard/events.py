"""Makes the events of a torch 2 trace legible for torch-tb-profiler 0.4.3, which was written for torch 1.

Left as they are, every operator's device time is zero and NCCL's time counts as compute: the plugin ties
kernels to operators by ids, and to communication by annotations, as torch 1 recorded them. Here each launch
and its kernels get the id of the innermost operator that was open on their thread, which no version's ids are
needed for, and an operator that launched NCCL is named after its collective, with the bytes it moved.

Arrows from forward to backward (`fwdbwd`) stay unknown to the plugin: it fails on modules that recomputation
calls a second time, without a backward of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tgsbench.traces import categories
from tgsbench.traces.shapes import item_bytes

Event = dict[str, Any]

OPERATORS: Final = ("cpu_op", "operator")
RUNTIMES: Final = ("runtime", "cuda_runtime", "cuda_driver", "hip_runtime", "privateuse1_runtime")
DEVICE: Final = ("kernel", "gpu_memcpy", "gpu_memset")
_NOW_CALLED: Final = {
    **{name: name for name in (*OPERATORS, *RUNTIMES, *DEVICE)},
    "memcpy": "gpu_memcpy",
    "memset": "gpu_memset",
}
"""Categories of torch 1.8, and in any case of letters -> as torch 2 writes them."""
UNSEEN: Final = "unseen"
"""A category that the plugin passes over."""
_ID: Final = "external id"
"""The spelling that the plugin looks for first; torch 2 writes another."""
_NO_OPERATOR: Final = 0
_TYPE_OF_SIZE: Final = {1: "unsigned char", 2: "c10::Half", 4: "float", 8: "long int"}
"""Bytes of an element -> a type that the plugin knows; it takes doubles, bools and the like for empty."""


def rewrite_for_plugin(events: list[Event]) -> set[str]:
    """Change the events in place; returns the names that stand for collectives in them."""
    for event in events:
        if event.get("args", "") is None:
            event["args"] = {}
    spans = [event for event in events if event.get("ph") == "X"]
    recorded: list[Any] = []
    for number, span in enumerate(spans, 1):
        category = str(span.get("cat") or UNSEEN)
        span["cat"] = _NOW_CALLED.get(category.lower(), category)
        span.setdefault("dur", 0)
        args = span.setdefault("args", {})
        recorded.append(args.get(_ID, args.get("External id")))
        args[_ID] = _NO_OPERATOR if span["cat"] in DEVICE else number
    annotations = _link(spans)
    _link_by_record(spans, recorded)
    launched = _nccl_ids(spans)
    return _name_nccl(spans, launched, annotations) if launched else _name_gloo(spans)


def _link(spans: list[Event]) -> dict[int, str]:
    """Tie launches and kernels to operators; NCCL's annotations by the id of the operator around them."""
    kernels: dict[Any, list[Event]] = {}
    for span in spans:
        if span["cat"] in DEVICE:
            span["args"].setdefault("device", 0)
            kernels.setdefault(span["args"].get("correlation"), []).append(span)
    annotations: dict[int, str] = {}
    for span, operator in _innermost(spans):
        if span["cat"] in RUNTIMES:
            for linked in (span, *kernels.get(span["args"].get("correlation"), ())):
                linked["args"][_ID] = operator
        else:
            annotations.setdefault(operator, span["name"])
    return annotations


def _link_by_record(spans: list[Event], recorded: list[Any]) -> None:
    """What no launch inside an operator ties to one keeps the operator that the trace itself names."""
    numbers = {
        old: span["args"][_ID]
        for span, old in zip(spans, recorded, strict=True)
        if span["cat"] in OPERATORS and isinstance(old, int) and old != _NO_OPERATOR
    }
    for span, old in zip(spans, recorded, strict=True):
        is_loose = span["cat"] in DEVICE or span["cat"] in RUNTIMES
        if is_loose and span["args"][_ID] == _NO_OPERATOR and isinstance(old, int):
            span["args"][_ID] = numbers.get(old, _NO_OPERATOR)


def _innermost(spans: Iterable[Event]) -> Iterator[tuple[Event, int]]:
    """Launches and NCCL's annotations, each with the id of the operator around it."""
    hosts = [s for s in spans if s["cat"] in OPERATORS or s["cat"] in RUNTIMES or _is_nccl_mark(s)]
    hosts.sort(key=lambda span: (str(span.get("tid")), span["ts"], -span["dur"]))
    open_ones: list[Event] = []
    for span in hosts:
        while open_ones and not _is_open(open_ones[-1], span):
            open_ones.pop()
        if span["cat"] in OPERATORS:
            open_ones.append(span)
        else:
            yield span, open_ones[-1]["args"][_ID] if open_ones else _NO_OPERATOR


def _is_open(operator: Event, span: Event) -> bool:
    is_same_thread = operator.get("tid") == span.get("tid")
    return is_same_thread and bool(span["ts"] < operator["ts"] + operator["dur"])


def _is_nccl_mark(span: Event) -> bool:
    return span["cat"] == "user_annotation" and str(span["name"]).startswith("nccl:")


def _nccl_ids(spans: Iterable[Event]) -> set[int]:
    """Operators that launched NCCL's kernels."""
    kernels = (s for s in spans if s["cat"] == "kernel" and categories.is_nccl_kernel(s["name"]))
    return {kernel["args"][_ID] for kernel in kernels} - {_NO_OPERATOR}


def _name_nccl(spans: Iterable[Event], launched: set[int], annotations: dict[int, str]) -> set[str]:
    """Name the operators after their collectives; annotations would count a second time."""
    found: set[str] = set()
    for span in spans:
        if span["cat"] == "user_annotation" and str(span["name"]).startswith(("nccl:", "gloo:")):
            span["cat"] = UNSEEN
        elif span["cat"] in OPERATORS and (operator := span["args"][_ID]) in launched:
            args = span["args"]
            text = args.get("Collective name") or annotations.get(operator) or span["name"]
            span["name"] = f"nccl:{categories.collective_kind(str(text))}"
            _set_size(args, max(args.get("In msg nelems") or 0, args.get("Out msg nelems") or 0))
            found.add(span["name"])
    return found


def _set_size(args: Event, num_elements: int) -> None:
    """The elements that NCCL recorded in place of shapes: these are there without record_shapes too."""
    width = item_bytes(str(args.get("dtype", "")))
    if num_elements and width in _TYPE_OF_SIZE:
        args["Input Dims"], args["Input type"] = [[num_elements]], [_TYPE_OF_SIZE[width]]


def _name_gloo(spans: Iterable[Event]) -> set[str]:
    """gloo annotates on threads of its own, under names that serve; only their types need translating."""
    marks = [s for s in spans if s["cat"] == "user_annotation" and str(s["name"]).startswith("gloo:")]
    for mark in marks:
        types = mark["args"].get("Input type", ())
        mark["args"]["Input type"] = [_TYPE_OF_SIZE.get(item_bytes(str(name)), name) for name in types]
    return {mark["name"] for mark in marks}
