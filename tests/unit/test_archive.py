"""Runs in one file and back; hostile archives leave nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.unit.stored import store_run
from tgsbench.cli.runs import runs as runs_command
from tgsbench.errors import ExitCode, TgsError
from tgsbench.store import archive
from tgsbench.store.archive import Member, Sums


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def made(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], sums: list[Member] | None = None) -> Path:
    """An archive as somebody else may write it."""
    listed = sums
    if listed is None:
        listed = [Member(i.name, len(d), hashlib.sha256(d).hexdigest()) for i, d in members]
    with tarfile.open(path, "w:gz") as tar:
        data = msgspec.json.encode(Sums(members=listed))
        head = tarfile.TarInfo("tgsbench-archive.json")
        head.size = len(data)
        tar.addfile(head, io.BytesIO(data))
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def a_file(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


def test_runs_come_back_byte_by_byte(tmp_path):
    runs = [store_run(tmp_path / "a", name) for name in ("one", "two")]
    (runs[0].path / "profile").mkdir()
    (runs[0].path / "profile" / "t.json.gz").write_bytes(bytes(range(256)) * 1000)
    (runs[0].path / "log" / "empty.log").touch()
    archive.pack(runs, tmp_path / "x.tar.gz")
    assert archive.unpack(tmp_path / "x.tar.gz", tmp_path / "b") == ["one", "two"]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not list((tmp_path / "b").glob(".restore*"))


def test_links_are_not_followed_into_the_archive(tmp_path):
    run = store_run(tmp_path / "a", "one")
    (tmp_path / "secret").write_text("s")
    (run.path / "log" / "link").symlink_to(tmp_path / "secret")
    sums = archive.pack([run], tmp_path / "x.tar.gz")
    assert not [m for m in sums.members if "link" in m.path]


def test_an_existing_run_or_file_is_never_overwritten(tmp_path):
    run = store_run(tmp_path / "a", "one")
    archive.pack([run], tmp_path / "x.tar.gz")
    with pytest.raises(TgsError, match="already exists"):
        archive.pack([run], tmp_path / "x.tar.gz")
    before = tree(tmp_path / "a")
    with pytest.raises(TgsError, match="already exists"):
        archive.unpack(tmp_path / "x.tar.gz", tmp_path / "a")
    assert tree(tmp_path / "a") == before


@pytest.mark.parametrize(
    "member",
    [
        a_file("../evil/run.json"),
        a_file("one/../../evil"),
        a_file("/etc/evil"),
        a_file("one/a/../../../evil"),
        a_file("evil"),
        a_file(".hidden/x"),
        a_file("one\\..\\evil/x"),
        a_file("one/run.json", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        a_file("one/run.json", kind=tarfile.LNKTYPE, link="../../evil"),
        a_file("one/run.json", kind=tarfile.FIFOTYPE),
        a_file("one/run.json", kind=tarfile.CHRTYPE),
    ],
    ids=lambda member: member[0].name + str(member[0].type),
)
def test_an_archive_cannot_write_outside_its_runs(tmp_path, member):
    path = made(tmp_path / "x.tar.gz", [member])
    root = tmp_path / "in" / "runs"
    with pytest.raises(TgsError) as raised:
        archive.unpack(path, root)
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert [p.name for p in tmp_path.rglob("*") if p != path] == ["in", "runs"]


def test_a_damaged_file_is_named_and_nothing_is_restored(tmp_path):
    info, data = a_file("one/run.json", b"good")
    path = made(tmp_path / "x.tar.gz", [(info, data)], [Member("one/run.json", 4, "0" * 64)])
    with pytest.raises(TgsError, match=r"one/run.json.*SHA-256"):
        archive.unpack(path, tmp_path / "r")
    assert list((tmp_path / "r").iterdir()) == []


def test_a_file_that_is_missing_or_more_than_listed_is_refused(tmp_path):
    listed = [Member("one/run.json", 1, "0" * 64)]
    with pytest.raises(TgsError, match="missing"):
        archive.unpack(made(tmp_path / "a.tar.gz", [], listed), tmp_path / "r")
    with pytest.raises(TgsError, match="not what its list says"):
        archive.unpack(made(tmp_path / "b.tar.gz", [a_file("one/extra")], []), tmp_path / "r")


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 4, 9, 10, 11, 200, -3000])
def test_a_cut_archive_is_refused(tmp_path, keep):
    run = store_run(tmp_path / "a", "one")
    (run.path / "noise").write_bytes(bytes(hashlib.sha256(str(i).encode()).digest()[0] for i in range(5000)))
    archive.pack([run], tmp_path / "x.tar.gz")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((tmp_path / "x.tar.gz").read_bytes()[:keep])
    with pytest.raises(TgsError) as raised:
        archive.unpack(cut, tmp_path / "r")
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert list((tmp_path / "r").iterdir()) == []


def raw_archive(path: Path, blocks: bytes, listed: list[Member]) -> Path:
    """An archive whose second part is written byte by byte."""
    data = msgspec.json.encode(Sums(members=listed))
    head = tarfile.TarInfo("tgsbench-archive.json")
    head.size = len(data)
    padded = data + bytes(-len(data) % 512)
    path.write_bytes(gzip.compress(head.tobuf() + padded + blocks + bytes(1024), compresslevel=1))
    return path


def header(kind: bytes, size: int, name: str = "run/x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


HUGE = 64 << 20
ONE = [Member("run/x", 1, hashlib.sha256(b"x").hexdigest())]
PAX_SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        (header(tarfile.GNUTYPE_LONGNAME, HUGE) + bytes(HUGE), "a header of 67,108,864 bytes"),
        (header(tarfile.GNUTYPE_LONGLINK, HUGE) + bytes(HUGE), "a header of 67,108,864 bytes"),
        (header(tarfile.XHDTYPE, HUGE) + bytes(HUGE), "a header of 67,108,864 bytes"),
        (header(tarfile.XGLTYPE, HUGE) + bytes(HUGE), "a header of 67,108,864 bytes"),
        (header(tarfile.GNUTYPE_SPARSE, 1) + bytes(512), "a sparse file"),
        (
            header(tarfile.XHDTYPE, len(PAX_SPARSE)) + PAX_SPARSE.ljust(512, b"\0") + header(b"0", 512),
            "a sparse file",
        ),
        ((header(tarfile.GNUTYPE_LONGNAME, 512) + b"a" * 512) * 5000, "nested too deeply"),
    ],
    ids=["long name", "long link", "pax header", "global pax header", "sparse", "pax sparse", "in a row"],
)
def test_headers_made_to_fill_the_memory_are_refused(tmp_path, blocks, why):
    path = raw_archive(tmp_path / "x.tar.gz", blocks, ONE)
    tracemalloc.start()
    with pytest.raises(TgsError, match=why) as refused:
        archive.unpack(path, tmp_path / "runs")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert peak < 16 << 20
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_archive_that_expands_without_measure_needs_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_ALWAYS_ALLOWED", 1 << 20)
    data = bytes(8 << 20)
    path = made(tmp_path / "x.tar.gz", [a_file("run/zeros", data)])
    assert path.stat().st_size * 100 < len(data)
    with pytest.raises(TgsError, match=r"expand to 8\.0 MiB") as refused:
        archive.unpack(path, tmp_path / "runs")
    assert refused.value.hint == "if you trust it: --max-size 8M"
    words = ["restore", str(path), "--output", str(tmp_path / "runs"), "--max-size"]
    assert CliRunner().invoke(runs_command, [*words, "7M"]).exception is not None
    assert CliRunner().invoke(runs_command, [*words, "much"]).exception.msg == "--max-size much is no size"
    assert CliRunner().invoke(runs_command, [*words, "8M"]).output == "run\n"


def test_sizes_below_nothing_do_not_pay_for_large_ones(tmp_path):
    listed = [Member("run/x", -(1 << 40), ""), Member("run/y", 1 << 40, "")]
    with pytest.raises(TgsError, match="negative size"):
        archive.unpack(made(tmp_path / "x.tar.gz", [], listed), tmp_path / "runs")
