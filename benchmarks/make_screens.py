"""Makes the pictures of the terminal UI's screens: python -m benchmarks.make_screens writes docs/screens/.

Every figure comes from the recorded (simulated) run that ships with the package, or from copies of it with
other settings; machine and doctor are made up, so that the pictures are the same everywhere.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import msgspec
from textual.pilot import Pilot

from tgsbench.launch.preflight import LocalMachine
from tgsbench.live import session
from tgsbench.store.run_dir import RunDir
from tgsbench.system.doctor import DoctorCheck
from tgsbench.tui import recorded
from tgsbench.tui.app import TgsApp

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "screens"
SIZE = (120, 36)
WIDE = (200, 60)
CHECKS = [
    DoctorCheck("python", "ok", "3.11.7"),
    DoctorCheck("torch", "ok", "2.13.0+cpu (CPU build)"),
    DoctorCheck("GPUs", "warning", "none", "CPU presets, rehearsals and plans run without one"),
    DoctorCheck("ranks talk", "ok", "2 ranks over gloo: 0.87 GB/s each way, all-to-all"),
    DoctorCheck("disk", "ok", "44.4 GiB free for runs"),
    DoctorCheck("hub", "failure", "cannot be reached", "--set workload.corpus=pydoc needs no network"),
]


@dataclass(frozen=True)
class Shot:
    """One picture: what is open, which keys lead there, which words tell that it is there."""

    name: str
    keys: tuple[str, ...]
    words: str
    opens_run: bool = False
    focus: str = ""
    size: tuple[int, int] = SIZE


SHOTS = (
    Shot("welcome", ("f2",), "Three ways"),
    Shot("presets", ("slash", *"llama2_7b_128k", "escape"), "llamafactory"),
    Shot("form", ("slash", *"llama2_7b_128k", "enter", "e", *["tab"] * 3, "backspace", "6"), "nearest"),
    Shot("forecast", ("slash", *"llama2_7b_128k", "enter", "f", "j"), "fastest first"),
    Shot("live", ("G", "h"), "n = 24", opens_run=True),
    Shot("ranks", ("w",), "over the median rank:", opens_run=True),
    Shot("explain", ("question_mark",), "formula", opens_run=True, focus="#big"),
    Shot("logs", ("o", "full_stop"), "log of rank  0 [1]", opens_run=True),
    Shot("palette", ("ctrl+p", *"128k"), "Preset: yi_34b_128k"),
    Shot("live-wide", ("w",), "log of rank [0]", opens_run=True, size=WIDE),
    Shot("profile", ("4",), "ranks traced", opens_run=True),
    Shot("kernels", ("4", "right_square_bracket"), "flash_bw…", opens_run=True),
    Shot("runs", ("2", "x", "x"), "2 marked"),
    Shot("details", ("2", "i"), "tags  "),
    Shot("compare", ("2", "j", "x", "x", "v"), "verdict"),
    Shot("doctor", ("5",), "want attention"),
)


def copy_run(root: Path, name: str, **changes: object) -> None:
    """The recording under another name, its result changed."""
    run = RunDir(root / name)
    shutil.copytree(recorded.recording(), run.path)
    began = {name: value for name, value in changes.items() if name == "created_unix"}
    for file, told in (("result.json", changes), ("run.json", began)):
        document = msgspec.json.decode((run.path / file).read_bytes())
        (run.path / file).write_bytes(msgspec.json.encode(document | told | {"run_id": name}))


def make_runs(root: Path) -> None:
    """Three runs for the list and the comparison."""
    noon, day = 1_780_315_200, 86_400
    copy_run(root, "20260601T120000-llama2_7b_128k-aa01", created_unix=noon)
    copy_run(
        root, "20260602T120000-llama2_7b_128k-bb02",
        checkpointing="selective", engine="deepspeed", created_unix=noon + day,
    )  # fmt: skip
    failure = {"kind": "oom", "reason": "CUDA out of memory on rank 7"}
    copy_run(
        root, "20260603T120000-llama2_7b_128k-cc03",
        created_unix=noon + 2 * day, status="oom", failure=failure, tgs={"median": None, "n": 0},
    )  # fmt: skip


async def until(pilot: Pilot[int], app: TgsApp, words: str) -> None:
    """Wait until the screen says `words` and does not change any more."""
    before = ""
    for _ in range(400):
        await pilot.pause(0.1)
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        if words in shown and shown == before:
            return
        before = shown
    raise TimeoutError(f"{words!r} never came:\n{before}")


async def shoot(shot: Shot, root: Path) -> str:
    """One picture as SVG."""
    opens = session.follow(RunDir(recorded.recording())) if shot.opens_run else None
    app = TgsApp(runs_root=root, opens=opens)
    async with app.run_test(size=shot.size) as pilot:
        await until(pilot, app, "n = 24" if shot.opens_run else "presets, ")
        if shot.focus:
            app.screen.query_one(shot.focus).focus()
        for key in shot.keys:
            await pilot.press(key)
            await pilot.pause(0.3 if key in ("2", "e", "enter") else 0.02)
        await until(pilot, app, shot.words)
        return app.export_screenshot(title=f"tgsbench: {shot.name}")


async def all_shots(root: Path, take: Callable[[Shot, Path], Awaitable[str]] = shoot) -> None:
    """Every picture into FOLDER."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for shot in SHOTS:
        path = FOLDER / f"{shot.name}.svg"
        path.write_text(await take(shot, root), "utf-8")
        print(f"{path.relative_to(FOLDER.parent.parent)}  {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make the pictures in a world of their own: no settings, presets or runs of the user."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        os.environ.update(XDG_CONFIG_HOME=str(home / "config"), TZ="UTC", TERM="xterm-256color")
        os.environ.pop("NO_COLOR", None)
        (home / "config" / "tgsbench").mkdir(parents=True)
        (home / "config" / "tgsbench" / "tui.toml").write_text("welcomed = true\n")
        os.chdir(home)
        root = Path("runs")
        make_runs(root)
        machine = LocalMachine([], 2, 16 << 30)
        with (
            patch("tgsbench.launch.preflight.this_machine", lambda: machine),
            patch("tgsbench.system.doctor.iter_checks", lambda runs_root, **_: [(0, CHECKS)]),
        ):
            asyncio.run(all_shots(root))


if __name__ == "__main__":
    main()
