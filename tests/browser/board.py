"""`tgsbench tensorboard` in a process of its own, and the profiler's pages as their reader sees them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from tests.browser.chrome import wait
from tests.contract.cli import ROOT, environment
from tests.traces.made_cuda import cuda_rank
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import recorded

SIMULATED = "simulated-llama2_7b_128k"
"""A run whose scalars are simulated and whose CUDA traces are made up."""
TINY = "tiny-cpu-2-ranks"
"""A folder of real traces: two gloo ranks of a tiny model, with modules and allocations."""

_TABLES = """return [...document.querySelectorAll('tr')].map(
  (row) => [...row.children].map((cell) => cell.innerText.trim()))"""
_OPEN = """const boxes = [...document.querySelectorAll('[aria-haspopup=listbox]')];
boxes[arguments[0]].dispatchEvent(new MouseEvent('mousedown', {bubbles: true, button: 0})); return true"""
_CHOOSE = """const found = [...document.querySelectorAll('li[role=option]')].find(
  (option) => option.textContent.trim() === arguments[0]);
if (found) found.click(); return Boolean(found)"""
_CLOSED = "return !document.querySelector('li[role=option]')"
_SHOWN = "return document.querySelectorAll('[aria-haspopup=listbox]')[arguments[0]].innerText.trim()"
_CLICK = """[...document.querySelectorAll('button')].find(
  (button) => button.textContent.trim().toUpperCase() === arguments[0]).click(); return true"""


def make_sources(home: Path, device: str = "simulated") -> list[str]:
    """A run under home/runs and a folder of loose traces; what the command line is told."""
    run = RunDir(home / "runs" / SIMULATED)
    shutil.copytree(recorded.recording(), run.path)
    shutil.rmtree(run.path / "profile")
    (run.path / "profile").mkdir()
    result = msgspec.json.decode((run.path / "result.json").read_bytes())
    (run.path / "result.json").write_bytes(msgspec.json.encode(result | {"device": device}))
    for rank in (0, 1):
        cuda_rank(rank).write(run.path / "profile" / f"made_{rank:04d}.1700000000000.pt.trace.json.gz")
    shutil.copytree(ROOT / "tests" / "data" / "traces_modules", home / TINY)
    return [SIMULATED, TINY]


@contextlib.contextmanager
def served(home: Path, *args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server's address and process; ended as ctrl-c does it."""
    argv = [sys.executable, "-m", "tgsbench", "tensorboard", *args]
    process = subprocess.Popen(
        argv, cwd=home, env=environment(home), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "it ended instead"
        yield address, process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def _is_loading(address: str, driver: Any) -> bool:
    """Does the plugin still read traces, asked with the pass that the browser was given."""
    runs = f"{address.partition('#')[0]}data/plugin/pytorch_profiler/runs"
    pass_ = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in driver.get_cookies())
    asked = urllib.request.Request(runs, headers={"Cookie": pass_})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = json.load(answer)
    return bool(found["loading"]) or not found["runs"]


class Pages:
    """The profiler's pages in a browser; figures are read from what they show."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        driver.get(address)
        wait(driver, lambda: not _is_loading(address, driver), "the plugin to read its traces")
        driver.get("about:blank")  # a new fragment alone would not load the page again
        driver.get(address)
        self.enter("plugin_entry.html")
        self.until("return document.querySelectorAll('[aria-haspopup=listbox]').length >= 3", "the selectors")

    def enter(self, address: str) -> None:
        """Go into the frame with this address."""
        script = "return [...document.querySelectorAll('iframe')].find((f) => f.src.includes(arguments[0]))"
        frame = wait(self.driver, lambda: self.driver.execute_script(script, address), f"a frame {address}")
        self.driver.switch_to.frame(frame)

    def until(self, script: str, what: str, *arguments: Any) -> Any:
        """Poll a script until it gives something true."""
        return wait(self.driver, lambda: self.driver.execute_script(script, *arguments), what)

    def choose(self, box: int, option: str) -> None:
        """Pick from the selector with this number, counted from the top."""

        def picked() -> bool:
            # A list may be filled anew while it is open: asked again until the selector shows the option.
            if self.driver.execute_script(_SHOWN, box) == option:
                return bool(self.driver.execute_script(_CLOSED))
            if not self.driver.execute_script(_CHOOSE, option) and self.driver.execute_script(_CLOSED):
                self.driver.execute_script(_OPEN, box)
            return False

        wait(self.driver, picked, f"{option} in selector {box}")

    def open(self, run: str, view: str, worker: str = "") -> None:
        """Show one view of a run."""
        self.choose(0, run)
        self.choose(1, view)
        if worker:
            self.choose(2, worker)

    def click(self, button: str) -> None:
        """Press a button by its text."""
        self.until(_CLICK, f"a button {button}", button)

    def text(self, wanted: str) -> str:
        """All that the page says, once it says `wanted`."""
        script = "const said = document.body.innerText; return said.includes(arguments[0]) && said"
        return str(self.until(script, f"the words {wanted!r}", wanted))

    def row(self, first: str) -> dict[str, str]:
        """The first table row that begins with a name, by the table's headings."""

        def found() -> dict[str, str]:
            rows = [row for row in self.driver.execute_script(_TABLES) if row and row[0]]
            at = next((index for index, row in enumerate(rows) if row[0] == first), None)
            if at is None:
                return {}
            heads = (row for row in reversed(rows[:at]) if row[0].split(" ▲")[0] in _HEADINGS)
            return dict(zip(next(heads), rows[at], strict=False))

        return dict(wait(self.driver, found, f"a row {first}"))

    def scalars(self, address: str, tags: str, words: str) -> None:
        """Show the cards of the scalars whose tags match, once they say `words`."""
        self.driver.get("about:blank")
        self.driver.get(f"{address.partition('#')[0]}?tagFilter={quote(tags)}#timeseries")
        self.text(words)

    def settle(self) -> None:
        """Wait until two pictures in a row are the same: menus fade out, charts are drawn."""
        before = [b""]

        def is_still() -> bool:
            before[:] = [self.driver.get_screenshot_as_png(), before[0]]
            return before[0] == before[1]

        wait(self.driver, is_still, "a picture that stays")

    def charts(self) -> int:
        """Shapes drawn by charts.js."""
        script = "return document.querySelectorAll('svg[font-family] :is(path, rect)').length"
        return int(self.until(script, "a chart"))


_HEADINGS = ("Category", "Name", "Operator", "Operator Name", "Module Name")


def number(cell: str) -> float:
    """ "1,234.5" as a figure."""
    return float(cell.replace(",", ""))
