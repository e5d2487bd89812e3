"""The disk under a run fills up or turns read-only in the middle: training goes on or ends clearly."""

from __future__ import annotations

import json
import os
import subprocess

import psutil
import pytest

from tests.contract.cli import tgsbench, tgsbench_json
from tests.dist.faulty import Running, listed, run_with, shown, wait_for

pytestmark = pytest.mark.dist


def _mount(*args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount file systems: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A home whose runs folder is a disk of 512 KiB of its own."""
    (tmp_path / "runs").mkdir()
    _mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path / "runs"))
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


@pytest.fixture
def disk_that_fails(tmp_path):
    """A home whose runs folder is an ext4 file system in a file."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8 << 20))
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    (tmp_path / "runs").mkdir()
    _mount("-o", "loop", str(image), str(tmp_path / "runs"))
    (tmp_path / "runs" / "lost+found").rmdir()
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


def _fill(home) -> int:
    """Take every byte that is left on the runs' own small disk; returns a descriptor of what holds them."""
    disk = os.statvfs(home / "runs")
    assert disk.f_blocks * disk.f_frsize <= 16 << 20, "this is not the small disk"
    fd = os.open(home / "runs" / "filler", os.O_WRONLY | os.O_CREAT)
    for size in (4096, 64, 1):
        try:
            while os.write(fd, bytes(size)) == size:
                pass
        except OSError:
            continue
    return fd


def _whole_lines(run) -> int:
    return sum(len(run.events(rank)) for rank in (0, 1))


def test_a_disk_that_fills_up_and_is_cleared_loses_events_and_says_so(small_disk):
    run = Running(small_disk, steps=400).until_measuring(4)
    folder = run.folder
    filler = _fill(small_disk)
    ranks = [psutil.Process(pid) for pid in run.pids().values()]
    before_s = sum(rank.cpu_times().user for rank in ranks)
    wait_for(lambda: sum(rank.cpu_times().user for rank in ranks) > before_s + 1.0)  # training goes on
    size = (folder / "events" / "rank00000.jsonl").stat().st_size
    os.ftruncate(filler, 0)
    os.close(filler)
    (small_disk / "runs" / "filler").unlink()
    wait_for(lambda: (folder / "events" / "rank00000.jsonl").stat().st_size > size)
    said = run.finish(240)
    assert run.process.returncode == 0, said
    (row,) = tgsbench_json(small_disk, "runs", "--json", "--output", str(small_disk / "runs"))
    assert row["status"] == "ok"
    document = tgsbench_json(small_disk, "show", "latest", "--json")
    assert any("could not write" in warning and "full" in warning for warning in document["warnings"])
    assert 4 <= document["tgs"]["n"] < 400
    assert document["integrity"]["tokens_ok"]


def test_a_disk_that_stays_full_ends_the_run_with_the_reason_on_the_screen(small_disk):
    run = Running(small_disk, steps=30).until_measuring(4)
    os.close(_fill(small_disk))
    said = run.finish(240)
    assert run.process.returncode == 7, said
    assert "cannot be written any more: No space left on device" in said
    assert "Traceback" not in said
    row = listed(small_disk)
    assert row["status"] == "crashed"
    assert row["tgs"] > 0
    assert "cannot be written any more: No space left on device" in row["reason"]
    assert "TGS" in tgsbench(small_disk, "show", "latest").stdout


def test_a_disk_that_turns_read_only_ends_the_run_with_the_reason_on_the_screen(disk_that_fails):
    run = Running(disk_that_fails, steps=30).until_measuring(4)
    _mount("-o", "remount,abort", str(disk_that_fails / "runs"))
    said = run.finish(240)
    assert run.process.returncode == 7, said
    assert "cannot be written any more: Read-only file system" in said
    assert "this result is not stored" in said
    assert "Traceback" not in said
    assert _whole_lines(run) >= 8
    row = listed(disk_that_fails)
    assert (row["status"], "Read-only file system" in row["reason"]) == ("crashed", True)
    assert json.loads(tgsbench(disk_that_fails, "show", "latest", "--json").stdout)["tgs"]["n"] >= 1


def test_a_disk_without_room_for_another_file_is_the_reason_and_stored(tmp_path):
    (tmp_path / "runs").mkdir()
    # The root, the run, two folders and its eight first files: none is left for what ranks write.
    _mount("-t", "tmpfs", "-o", "size=8m,nr_inodes=13", "tmpfs", str(tmp_path / "runs"))
    try:
        run = Running(tmp_path, steps=4)
        said = run.finish(240)
        assert run.process.returncode == 7, said
        row = listed(tmp_path)
        assert (row["status"], "No space left on device" in row["reason"]) == ("crashed", True)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


def test_a_rank_that_cannot_write_its_last_word_ends_the_run_as_one_without_room(tmp_path):
    done = run_with(tmp_path, rank=1, step=4, do="disk_full")
    assert done.returncode == 7, done.stderr
    assert "could not write their events" in done.stderr
    document = shown(tmp_path)[0]
    assert (document["status"], document["failure"]["kind"]) == ("crashed", "disk")
    assert document["tgs"]["n"] == 2, "steps 2 and 3 of both ranks were recorded"
    assert (
        "rank 1: events are lost from here on"
        in (next(tmp_path.glob("runs/*/log/rank00001.log"))).read_text()
    )


def test_a_folder_that_is_read_only_from_the_start_starts_nothing(disk_that_fails):
    _mount("-o", "remount,ro", str(disk_that_fails / "runs"))
    done = tgsbench(disk_that_fails, "run", "--preset", "tiny_cpu", "--headless")
    assert done.returncode == 7
    assert "Read-only file system" in done.stderr
    assert "--output DIR" in done.stderr
    assert "Traceback" not in done.stderr
