"""torch-tb-profiler 0.4.3, extended as it starts: the only module that knows the plugin's inside.

No file of the package is changed. Its pages ask two other sites for scripts; here they get `charts.js` and
`elements.js` from beside this file. Its parsers are processes that start afresh: they import this module
because `Loader` lives in it, and so are extended too.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch_tb_profiler
from torch_tb_profiler import plugin as original
from torch_tb_profiler.multiprocessing import BoundedSemaphore
from torch_tb_profiler.profiler import data, loader, trace
from torch_tb_profiler.profiler.event_parser import EventParser, ProfileRole
from torch_tb_profiler.profiler.tensor_core import TC_Allowlist
from torch_tb_profiler.profiler.trace import EventTypes
from werkzeug import Request, Response

from tgsbench.system.lifetime import die_with_parent
from tgsbench.traces import categories
from tgsbench.traces.tensorboard import events

_MAX_PARSERS: Final = 4
"""Traces read at once: the parser of a 350 MB trace takes 2 GB of memory."""
_OURS: Final = Path(__file__).parent
_THEIRS: Final = Path(torch_tb_profiler.__file__).parent / "static"
_CHARTS: Final = "https://www.gstatic.com/charts/loader.js"
_ELEMENTS: Final = "https://cdnjs.cloudflare.com/ajax/libs/webcomponentsjs/0.7.24/webcomponents.min.js"
_VIEWER: Final = '<link rel="import" href="trace_viewer_full.html" onerror="onTraceViewerImportFail(event)">'
_INLINE: Final = re.compile(r"<script>(.+?)</script>", re.S)
_TENSOR_CORE_KERNELS: Final = (
    "nvjet", "tensorop", "wgmma", "gmma", "flash_fwd", "flash_bwd_dq", "FlashAttnFwd", "FlashAttnBwd",
    "FlashAttentionForward", "FlashAttentionBackward", "sdpa_sm", "fmha_cutlass",
)  # fmt: skip
"""Parts of kernel names since Hopper and flash-attention, which the plugin's list is older than."""


class Parser(EventParser):  # type: ignore[misc]
    """Keeps communication on the device apart from its launches on the host."""

    def _update_communication_node(self, event: Any) -> bool:
        node = self.communication_data.get(event.external_id)
        if node is not None and not hasattr(node, "on_device"):
            node.kernel_ranges, node.total_time, node.on_device = [], 0, True
        return bool(super()._update_communication_node(event))

    def _parse_step(self, event: Any, comm_nodes: Any) -> None:
        kernels, communication, operators = (
            self.role_ranges[role]
            for role in (ProfileRole.Kernel, ProfileRole.Communication, ProfileRole.CpuOp)
        )
        super()._parse_step(event, comm_nodes)
        if event.type == EventTypes.KERNEL:
            # A kernel whose launch is outside the trace communicates all the same.
            if event.external_id not in comm_nodes and categories.is_nccl_kernel(event.name):
                communication.append(kernels.pop())
        elif event.name in trace.NcclOpNameSet:
            operators.append(communication.pop())


class Loader(loader.RunLoader):  # type: ignore[misc]
    """Reads a few traces of a run at a time, in processes that end with this one, without a sound."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.parent = os.getpid()
        self.room = BoundedSemaphore(min(_MAX_PARSERS, os.cpu_count() or 1))

    def load(self) -> Any:
        """As the plugin does; ctrl-c is for this process alone, which ends its parsers."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return super().load()

    def _process_data(self, worker: str, span: Any, path: str) -> None:
        die_with_parent(signal.SIGTERM, self.parent)
        with self.room:
            super()._process_data(worker, span, path)


class Plugin(original.TorchProfilerPlugin):  # type: ignore[misc]
    """Serves pages that ask no other site for anything."""

    def get_plugin_apps(self) -> dict[str, Any]:
        """The plugin's pages, ours in place of what it changes."""
        apps: dict[str, Any] = super().get_plugin_apps()
        return apps | {f"/{name}": _serve(name) for name in ("index.html", "trace_embedding.html", *_SCRIPTS)}


_SCRIPTS: Final = {"charts.js": _CHARTS, "elements.js": _ELEMENTS}


@cache
def page(name: str) -> str:
    """Text of a page or script of ours; ValueError when the plugin's is not the one that was expected."""
    if name in _SCRIPTS:
        return (_OURS / name).read_text("utf-8")
    text = (_THEIRS / name).read_text("utf-8")
    if name == "index.html":
        return _replaced(text, _CHARTS, "charts.js")
    # Imports of HTML are gone from browsers: the viewer stands in the page itself.
    viewer = (_THEIRS / "trace_viewer_full.html").read_text("utf-8")
    head = viewer[viewer.index("<template") : viewer.rindex("</head>")]
    return _replaced(_replaced(text, _ELEMENTS, "elements.js"), _VIEWER, head)


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"torch-tb-profiler's page does not hold {old} once")
    return text.replace(old, new)


@cache
def policy(name: str) -> str:
    """What the browser lets a page do: run the scripts it came with, and ask this server for the rest."""
    digests = (hashlib.sha256(text.encode()).digest() for text in _INLINE.findall(page(name)))
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'self'; script-src 'self' 'unsafe-eval' {hashes}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:"
    )


def _serve(name: str) -> Any:
    is_script = name in _SCRIPTS
    kind = "application/javascript" if is_script else "text/html"
    headers = [*Plugin.headers, *([] if is_script else [("Content-Security-Policy", policy(name))])]

    @Request.application
    def serve(request: Request) -> Response:
        return Response(page(name), content_type=f"{kind}; charset=utf-8", headers=headers)

    return serve


def _read(path: str, cache_dir: str) -> tuple[str, dict[str, Any]]:
    """The trace as the plugin reads it, then made legible, its collectives made known."""
    path, document = _preprocess_file(path, cache_dir)
    found = events.rewrite_for_plugin(document["traceEvents"])
    known = (trace.NcclOpNameSet, trace.GlooOpNameSet)
    for name in sorted(found):
        target = known[name.startswith("gloo:")]
        if name not in target:
            target.append(name)
    return path, document


class _Complaints(logging.Filter):
    """Of all that the plugin logs: what keeps a trace or a view from being shown, in one line each."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().splitlines()[0]
        if text.startswith(("Failed to", "Number of communication")):
            print(f"warning: TensorBoard: {text}", file=sys.stderr, flush=True)
        return False


_preprocess_file = data.RunProfileData._preprocess_file
data.RunProfileData._preprocess_file = staticmethod(_read)
data.EventParser = Parser
original.RunLoader = Loader
trace.EventTypeMap.update(dict.fromkeys(events.RUNTIMES, EventTypes.RUNTIME))
# Copies of the host's annotations on the device's time line: steps would count twice.
trace.EventTypeMap.pop("gpu_user_annotation", None)
TC_Allowlist.allowlist.extend(_TENSOR_CORE_KERNELS)
original.logger.addFilter(_Complaints())
