"""Start the dry run of a preset in a process of its own: torch stays out of this one."""

from __future__ import annotations

import subprocess

import msgspec

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.preflight import check_packages
from tgsbench.schema.dry_run import DryRun
from tgsbench.schema.preset import Preset
from tgsbench.system.child import child_environment, module_argv


def dry_run(preset: Preset) -> DryRun:
    """One rank's operator stream on fake tensors; raises TgsError when torch is missing or refuses."""
    check_packages(preset)
    environment = dict(child_environment(), CUDA_VISIBLE_DEVICES="", TORCH_CPP_LOG_LEVEL="ERROR")
    done = subprocess.run(
        module_argv("tgsbench.training.dry_run"),
        input=presets.to_toml(preset),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise _failed(done)
    return msgspec.json.decode(done.stdout, type=DryRun)


def _failed(done: subprocess.CompletedProcess[str]) -> TgsError:
    last = done.stderr.strip().rsplit("\n", 1)[-1]
    try:
        told = msgspec.json.decode(last, type=dict[str, str])
        return TgsError(told["msg"], hint=told["hint"], exit_code=ExitCode(done.returncode))
    except (msgspec.DecodeError, KeyError, ValueError):
        return TgsError(f"the dry run failed: {last}", exit_code=ExitCode.CRASHED)
