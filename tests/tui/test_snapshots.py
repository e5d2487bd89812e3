"""Each screen as text at 80 x 24 and 120 x 40; `--snapshot-update` writes them anew, to be looked at."""

from pathlib import Path

import pytest

from tests.tui.conftest import NUM_PRESETS, SIZES, shows, text_of, until, welcome
from tests.tui.test_tune import write_state
from tgsbench.live import session
from tgsbench.tui.app import TgsApp

FOLDER = Path(__file__).parent / "snapshots"


@pytest.fixture
def matches(request):
    """Compares the screen with its stored text."""

    def check(app, name):
        path = FOLDER / f"{name}-{app.size.width}x{app.size.height}.txt"
        shown = text_of(app) + "\n"
        if request.config.getoption("--snapshot-update"):
            FOLDER.mkdir(exist_ok=True)
            path.write_text(shown, "utf-8")
        assert path.exists(), f"no snapshot {path.name}: run pytest with --snapshot-update and look at it"
        assert shown == path.read_text("utf-8")

    return check


@pytest.fixture
def runs(add_run):
    add_run("20260101T100000-llama2_7b_128k-aa01")
    add_run("20260102T100000-llama2_7b_128k-bb02", checkpointing="selective", engine="deepspeed")
    add_run(
        "20260103T100000-llama2_7b_128k-cc03",
        status="oom",
        failure={"kind": "oom", "reason": "CUDA out of memory on rank 7"},
        tgs={"median": None, "n": 0},
    )


@pytest.fixture(params=SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def size(request):
    return request.param


@pytest.mark.asyncio
async def test_presets(app, size, matches):
    async with app.run_test(size=size) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press(*"jjjjjjj")
        await shows(pilot, "llama2_7b_128k")
        await settle(pilot)
        matches(app, "presets")


@pytest.mark.asyncio
async def test_form(app, size, matches):
    async with app.run_test(size=size) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        app.edit_preset("llama2_7b_32k")
        await shows(pilot, "Edit llama2_7b_32k")
        await pilot.press("tab", "tab", "tab", "tab", "backspace", "6")
        await shows(pilot, "nearest")
        await settle(pilot)
        matches(app, "form")


@pytest.mark.asyncio
async def test_tune(app, runs_root, size, matches):
    write_state(runs_root)
    async with app.run_test(size=size) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        app.open_tune("tiny")
        await shows(pilot, "1 long run", "a billion tokens")
        for pane in ("settings", "trials", "knobs", "front"):
            await shows(pilot, f"[{pane}]")
            await settle(pilot)
            matches(app, f"tune-{pane}")
            await pilot.press("]")


@pytest.mark.asyncio
async def test_tune_form(app, size, matches):
    async with app.run_test(size=size) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        app.ask_tune("tiny_cpu", [])
        await shows(pilot, "Tune tiny_cpu", "real runs on this machine")
        await settle(pilot)
        matches(app, "tune-form")


@pytest.mark.asyncio
async def test_welcome(runs_root, tmp_path, size, matches):
    welcome(True, tmp_path)
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "Three ways")
        await until(pilot, lambda: "tiny" in text_of(app) or size[1] < 30)
        await settle(pilot)
        matches(app, "welcome")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("pane", "key", "words"),
    [
        ("charts", "c", "peak memory, largest rank"),
        ("ranks", "w", "over the median rank:"),
        ("gpus", "u", "1095 MHz"),
        ("logs", "o", "simulated log of rank 0"),
        ("notes", "a", "GPU of rank 5 throttled: thermal"),
    ],
)
async def test_live(runs_root, recording, size, matches, pane, key, words):
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press(key)
        await shows(pilot, f"[{key} ", words)
        await settle(pilot)
        matches(app, f"live-{pane}")


@pytest.mark.asyncio
async def test_explain(runs_root, recording, size, matches):
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "n = 24")
        app.screen.query_one("#big").focus()
        await pilot.press("question_mark")
        await shows(pilot, "measured steps n")
        await settle(pilot)
        matches(app, "explain")


@pytest.mark.asyncio
async def test_runs(app, runs, size, matches, monkeypatch):
    async with app.run_test(size=size) as pilot:
        app.runs_root = Path("runs")
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("x", "x")
        await shows(pilot, "2 marked")
        await settle(pilot)
        matches(app, "runs")


@pytest.mark.asyncio
async def test_compare(app, runs, size, matches):
    async with app.run_test(size=size) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("j", "x", "x", "v")
        await shows(pilot, "verdict")
        await settle(pilot)
        matches(app, "compare")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("pane", "key", "words"),
    [
        ("shares", "S", "attention backward"),
        ("kernels", "K", "(attention forward"),
        ("collectives", "C", "of 300"),
        ("findings", "F", "SIMULATED: made-up"),
    ],
)
async def test_profile(runs_root, recording, size, matches, pane, key, words):
    app = TgsApp(runs_root=runs_root, opens=session.follow(recording))
    async with app.run_test(size=size) as pilot:
        await pilot.press("4")
        await shows(pilot, "ranks traced")
        await pilot.press(key)
        await shows(pilot, f"[{key} ", words)
        await settle(pilot)
        matches(app, f"profile-{pane}")


@pytest.mark.asyncio
async def test_doctor(app, size, matches):
    async with app.run_test(size=size) as pilot:
        await pilot.press("5")
        await shows(pilot, "want attention")
        await settle(pilot)
        matches(app, "doctor")


@pytest.mark.asyncio
async def test_help(app, size, matches, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")  # the help names it, a folder of pytest's would differ
    async with app.run_test(size=size) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("f1")
        await shows(pilot, "Keys")
        await settle(pilot)
        matches(app, "help")


async def settle(pilot):
    """Let what was asked for be painted; the same screen three times in a row."""
    seen = []
    for _ in range(200):
        await pilot.pause(0.1)
        seen = [*seen[-2:], text_of(pilot.app)]
        if len(seen) == 3 and len(set(seen)) == 1:
            return
    raise AssertionError(f"it never comes to rest\n{seen[-1]}")
