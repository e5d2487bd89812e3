"""`tgsbench tensorboard` from the shell: how it ends, and what it says when it cannot start."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest

from tests.contract.cli import ROOT, environment, tgsbench
from tests.unit.stored import store_run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_tb_profiler") is None, reason="needs tgsbench[profile]"
)
TRACES = str(ROOT / "tests" / "data" / "traces")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_at_once_with_its_parsers_and_its_folder(tmp_path, number):
    env = environment(tmp_path) | {"TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "tgsbench", "tensorboard", TRACES]
    server = subprocess.Popen(
        argv, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stdout is not None
    first = server.stdout.readline()
    assert first.startswith("http://127.0.0.1:"), server.communicate(timeout=30)
    started = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(number)
    _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    greeting = "it works in the first browser that opens it; ctrl-c ends it\n"
    assert said == greeting, "no traceback, no complaint"
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert list(tmp_path.glob("tgsbench-tensorboard-*")) == []


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = tgsbench(tmp_path, "tensorboard", TRACES, "--port", str(port))
    assert done.returncode == 2
    assert str(port) in done.stderr and "another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_bound_and_answers_nobody_is_passed_over(tmp_path):
    """Werkzeug ends the process there, so two servers that start at once would meet."""
    env = environment(tmp_path) | {"TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "tgsbench", "tensorboard", TRACES]
    with socket.socket() as silent:
        port = _bind_first_free(silent, 6006)
        server = subprocess.Popen(argv, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE)
        assert server.stdout is not None
        said = server.stdout.readline()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert said.startswith("http://127.0.0.1:") and f":{port}/" not in said
    assert server.returncode == 0


def _bind_first_free(silent, first):
    for port in range(first, first + 100):
        with contextlib.suppress(OSError):
            silent.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_an_unknown_run_names_the_nearest(tmp_path):
    store_run(tmp_path / "runs", "llama2_7b_32k-aa01")
    done = tgsbench(tmp_path, "tensorboard", "llama2_7b_32k-aa02")
    assert done.returncode == 7
    assert "no run called" in done.stderr and "llama2_7b_32k-aa01" in done.stderr


def test_a_run_without_traces_says_how_to_capture_some(tmp_path):
    store_run(tmp_path / "runs", "bare")
    done = tgsbench(tmp_path, "tensorboard")
    assert done.returncode == 17
    assert "no traces: bare" in done.stderr and "--profile timeline" in done.stderr
    assert "are shown" not in done.stderr


def test_a_run_named_twice_is_refused(tmp_path):
    done = tgsbench(tmp_path, "tensorboard", TRACES, TRACES)
    assert done.returncode == 2
    assert "traces is named twice" in done.stderr


@pytest.mark.parametrize("package", ["tensorboard", "torch_tb_profiler"])
def test_a_missing_package_comes_with_its_install_command(tmp_path, package):
    hidden = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        f"importlib.util.find_spec = lambda name, *a: None if name == {package!r} else find(name, *a);"
        f"sys.argv = ['tgsbench', 'tensorboard', {TRACES!r}]; from tgsbench.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=tmp_path, env=environment(tmp_path), text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 6
    assert f"{package.replace('_', '-')} is not installed" in done.stderr
    assert f'pip install -e "{ROOT}[profile]"' in done.stderr


def test_traces_that_cannot_be_read_are_named(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "broken_0000.pt.trace.json").write_text('{"traceEvents": [{"name":')
    (folder / "empty_0001.pt.trace.json").write_text("")
    argv = [sys.executable, "-m", "tgsbench", "tensorboard", str(folder)]
    env, pipe = environment(tmp_path), subprocess.PIPE
    server = subprocess.Popen(argv, cwd=tmp_path, env=env, text=True, stdout=pipe, stderr=pipe)
    assert server.stderr is not None
    said = "".join(server.stderr.readline() for _ in range(3))
    server.send_signal(signal.SIGINT)
    _, rest = server.communicate(timeout=60)
    assert server.returncode == 0
    assert said.count("warning: TensorBoard: Failed to parse") == 2
    assert "broken_0000" in said and "empty_0001" in said
    assert "Traceback" not in said + rest


def test_the_terminal_ui_starts_the_same_command_and_ends_it(tmp_path):
    from tgsbench.tui.tensorboard import TensorBoard

    run = store_run(tmp_path / "runs", "traced")
    shutil.copytree(TRACES, run.path / "profile")
    server = TensorBoard(run)
    try:
        assert server.address().startswith("http://127.0.0.1:")
        assert server.is_alive
    finally:
        server.close()
    assert not server.is_alive


def test_the_temporary_folder_holds_links_and_no_copies():
    from tgsbench.traces.tensorboard import logdir

    with tempfile.TemporaryDirectory() as temporary:
        target = logdir.Path(temporary)
        trace = ROOT / "tests" / "data" / "traces" / "golden_0000.pt.trace.json.gz"
        logdir.lay_out([logdir.LogdirRun("a", [trace])], target)
        assert [path.readlink() for path in (target / "a").iterdir()] == [trace]
        assert logdir.memory_bytes([trace]) > 6 * 2_000_000


_ASKING = """
import multiprocessing, time
from tgsbench.traces.tensorboard.server import end_parsers

def ask(kept):
    try:
        while True:
            kept["a"] = 1
    except Exception as error:
        print("complaint:", error, flush=True)

kept = multiprocessing.Manager().dict()
for _ in range(6):
    multiprocessing.Process(target=ask, args=(kept,)).start()
time.sleep(0.5)
end_parsers()
print(len(multiprocessing.active_children()), "left")
"""


def test_parsers_end_before_the_process_that_they_ask():
    done = subprocess.run([sys.executable, "-c", _ASKING], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("0 left\n", 0)
