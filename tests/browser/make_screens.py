"""Makes the pictures of TensorBoard's views: python -m tests.browser.make_screens writes docs/screens/.

Names say what a figure is: the CUDA traces are made up, the run's scalars simulated, the CPU traces real.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.browser.board import SIMULATED, TINY, Pages, make_sources, served
from tests.browser.chrome import CHROMIUM, DRIVER, chromium
from tests.contract.cli import ROOT

FOLDER = ROOT / "docs" / "screens"
WIDTH, HEIGHT = 1600, 1150
_HEIGHTS = {"distributed": 1480, "diff": 1900, "trace": 900}
_COLOURS = 128
"""Enough for flat drawings; a picture of 60 kB instead of 200."""


def _trace(pages: Pages) -> None:
    pages.open(TINY, "Trace", "golden_0000")
    pages.enter("trace_embedding.html")
    pages.text("pt_gloo_runloop")


def _diff(pages: Pages) -> None:
    pages.click("DIFF")
    for box, option in enumerate((TINY, "golden_0000", "default", TINY, "golden_0001", "default")):
        pages.choose(box, option)
    pages.row("aten::empty")


VIEWS: dict[str, tuple[str, Callable[[Pages], None]]] = {
    "overview": ("Performance Recommendation", lambda pages: pages.open(SIMULATED, "Overview", "made_0000")),
    "operator": ("aten::mm", lambda pages: pages.open(SIMULATED, "Operator", "made_0000")),
    "kernel": ("nvjet_tst", lambda pages: pages.open(SIMULATED, "GPU Kernel", "made_0000")),
    "distributed": ("nccl:all_to_all", lambda pages: pages.open(SIMULATED, "Distributed")),
    "memory": ("Peak Memory Usage", lambda pages: pages.open(TINY, "Memory", "golden_0000")),
    "module": ("LlamaAttention_0", lambda pages: pages.open(TINY, "Module", "golden_0000")),
    "trace": ("", _trace),
    "diff": ("aten::empty", _diff),
}


def save(png: bytes, name: str) -> None:
    """Write a picture with few colours."""
    from PIL import Image

    path = FOLDER / f"tensorboard-{name}.png"
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """One picture a view, and one of the scalars; a note where there is no Chromium."""
    if CHROMIUM is None or DRIVER is None:
        sys.exit("no pictures of TensorBoard: Chromium and its driver are not installed")
    with tempfile.TemporaryDirectory() as temporary:
        sources = make_sources(Path(temporary))
        with served(Path(temporary), *sources) as (address, _), chromium(WIDTH, HEIGHT) as driver:
            for name, (words, show) in VIEWS.items():
                driver.set_window_size(WIDTH, _HEIGHTS.get(name, HEIGHT))
                pages = Pages(driver, address)
                show(pages)
                if words:
                    pages.text(words)
                pages.settle()
                save(driver.get_screenshot_as_png(), name)
            driver.set_window_size(WIDTH, HEIGHT)
            pages.scalars(address, "^measure/(tgs|step_s|mem_peak_gib|tflops_model)$", "/mem_peak_gib")
            pages.settle()
            save(driver.get_screenshot_as_png(), "scalars")


if __name__ == "__main__":
    main()
