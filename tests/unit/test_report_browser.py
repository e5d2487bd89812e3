"""The report page in a real browser, without network: light, dark, narrow, and on paper."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.unit.stored import store_run
from tgsbench.report import collect, page

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store_run(folder / "runs", "a-run-with-a-long-name-" + "x" * 60)
    path = folder / "report.html"
    path.write_text(page.render(collect.of_words(folder / "runs", ["latest", "llama2_7b_1M", "yi_34b_8k"])))
    return path


def chromium(page_path, *options):
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    subprocess.run([*argv, f"file://{page_path}"], check=True, capture_output=True, timeout=120)


def screenshot(page_path, width, *options):
    image = pytest.importorskip("PIL.Image")
    out = page_path.with_name(f"shot{width}{len(options)}.png")
    chromium(page_path, f"--window-size={width},1600", f"--screenshot={out}", *options)
    return image.open(out).convert("RGB")


def test_light_and_dark_follow_the_reader(page_path):
    light, dark = screenshot(page_path, 1200), screenshot(page_path, 1200, "--force-dark-mode")
    assert light.getpixel((2, 2)) == (255, 255, 255)
    assert dark.getpixel((2, 2)) == (0x14, 0x17, 0x1B)


def test_nothing_runs_over_the_edge_of_a_narrow_screen(page_path):
    shot = screenshot(page_path, 500)
    margin = {shot.getpixel((x, y)) for x in range(490, 500) for y in range(shot.height)}
    assert margin == {(255, 255, 255)}
    assert len(shot.getcolors(1 << 20)) > 20  # something is drawn


def test_the_page_prints(page_path):
    out = page_path.with_suffix(".pdf")
    chromium(page_path, f"--print-to-pdf={out}", "--no-pdf-header-footer")
    assert out.read_bytes().startswith(b"%PDF") and out.stat().st_size > 20_000
