"""A run's figures for Prometheus, as OpenMetrics text; off the ranks' path.

Only a question costs anything: the event files are read on from where the last question left them.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any, Final, NamedTuple, get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, StateSetMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tgsbench.errors import ExitCode, TgsError
from tgsbench.live import session
from tgsbench.live.headline import Headline
from tgsbench.live.session import Session
from tgsbench.safe_files import printable
from tgsbench.schema.run import Status
from tgsbench.store.run_dir import RunDir
from tgsbench.system.loopback import HOST
from tgsbench.units import GIB

_NAMES_OF_HERE: Final = (HOST, "localhost")
_READ_S: Final = 1.0
"""Time that one question reads new events for; the next one goes on."""


class Gauge(NamedTuple):
    """One figure: its name, which ends with its unit, what it means, its value."""

    name: str
    help: str
    value: float | None
    is_speed: bool = False
    """Does it speak of time? On a virtual GPU that time is the host's, and no speed."""


def gauges(head: Headline) -> list[Gauge]:
    """The figures of a run so far; those that are not known yet have no value."""
    peak = None if head.mem_peak_gib is None else head.mem_peak_gib * GIB
    return [
        Gauge(
            "tgsbench_tgs", "Median tokens per GPU per second of the measured steps.", head.tgs.median, True
        ),
        Gauge("tgsbench_newest_tgs", "Tokens per GPU per second of the newest step.", head.newest_tgs, True),
        Gauge("tgsbench_tgs_samples", "Measured steps that the median rests on.", head.tgs.n),
        Gauge("tgsbench_mfu_ratio", "Model FLOPs utilisation; of known GPUs only.", head.mfu, True),
        Gauge("tgsbench_step_seconds", "Median time of a step, of its slowest rank.", head.step_s, True),
        Gauge("tgsbench_memory_peak_bytes", "Largest peak memory of any rank.", peak),
        Gauge("tgsbench_steps_done", "Steps done: warm-up, measured and profiled ones.", head.steps_done),
        Gauge("tgsbench_steps_planned", "Steps of the whole run.", head.total_steps),
        Gauge("tgsbench_loss", "Loss of the newest step.", head.loss),
        Gauge("tgsbench_elapsed_seconds", "Time from the first event to the newest.", head.elapsed_s),
    ]


class RunCollector(Collector):
    """Reads on and says how the run stands, each time it is asked."""

    def __init__(self, opened: Session) -> None:
        self._session = opened
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        opened = self._session
        with self._lock:
            opened.poll(_READ_S)
            opened.look_at_status()
            head = opened.view.headline()
        labels = _labels(opened, head)
        for gauge in gauges(head):
            if gauge.value is not None and not (gauge.is_speed and opened.is_virtual):
                family = GaugeMetricFamily(gauge.name, gauge.help, labels=list(labels))
                family.add_metric(list(labels.values()), gauge.value)
                yield family
        stand = StateSetMetricFamily("tgsbench_status", "How the run stands.", labels=list(labels))
        stand.add_metric(list(labels.values()), {known: known == opened.status for known in get_args(Status)})
        yield stand


def _labels(opened: Session, head: Headline) -> dict[str, str]:
    preset = opened.view.plan.preset
    labels = {"run": opened.run.run_id, "preset": preset.name, "model": preset.model.name, "gpu": head.device}
    kind = "virtual" if opened.is_virtual else "synthetic" if opened.is_simulated else "measured"
    labels |= {"engine": preset.engine.name, "kind": kind}
    return {key: printable(value) for key, value in labels.items()}


def parse_address(text: str) -> tuple[str, int]:
    """`PORT` of this machine's loopback address, or `HOST:PORT`. Raises TgsError for anything else."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise TgsError(
            f"--metrics-port {text}: no port from 1 to 65535",
            hint="such as --metrics-port 9400, or HOST:PORT to answer other machines too",
        )
    return host or HOST, int(port)


@contextlib.contextmanager
def serving(run: RunDir, address: str) -> Iterator[str]:
    """Answer at `address` while the block runs; yields what to ask.

    Raises TgsError when the address is none, or is taken.
    """
    host, port = parse_address(address)
    registry = CollectorRegistry()
    registry.register(RunCollector(session.follow(run)))
    try:
        server = make_server(host, port, _guarded(make_wsgi_app(registry), host), _Server, _Silent)
    except OSError as error:
        raise TgsError(
            f"--metrics-port {address}: {error.strerror or error}",
            hint="choose another port, or leave --metrics-port out",
            exit_code=ExitCode.USAGE,
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""


_Respond = Callable[..., Any]
_App = Callable[[dict[str, Any], _Respond], Iterable[bytes]]


def _guarded(app: _App, host: str) -> _App:
    """The app, for questions that name this machine by its loopback address where it listens there."""

    def guarded(environ: dict[str, Any], respond: _Respond) -> Iterable[bytes]:
        named = str(environ.get("HTTP_HOST", "")).rpartition(":")[0]
        if host == HOST and named not in _NAMES_OF_HERE:
            respond("403 Forbidden", [("Content-Type", "text/plain")])
            return [f"this server answers at {HOST} only\n".encode()]
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            respond("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        return app(environ, respond)

    return guarded
