"""Blocks that a loop takes and gives back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.contract.cli import ROOT

_FAULTS = """
import resource
{before}
began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    bytes(bytearray(1 << 20))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
"""
_KEPT = "from tgsbench.system.allocator import keep_freed_blocks; keep_freed_blocks()"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_pages_of_blocks_that_come_again_fault_once():
    """A hundred pairs of a MiB have 51,200 pages of 4 KiB, of which 512 are enough."""
    plain, kept = _num_faults(""), _num_faults(_KEPT)
    assert kept < plain / 4
    assert kept < 5_000


def _num_faults(before: str) -> int:
    argv = [sys.executable, "-c", _FAULTS.format(before=before)]
    return int(subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
