"""What tgsbench knows of the engine before any rank starts; imports no torch."""

from __future__ import annotations

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.spec import TRAIN, EngineSpec, Native, options_of


class EchoOptions(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its own switches."""

    name: str = "echo"
    echo_every: int = 1
    """Micro-steps from one line in the log to the next."""


def _rules(preset: Preset) -> list[str]:
    every = options_of(preset, EchoOptions).echo_every
    return [] if every > 0 else [f"engine.echo_every={every}: must be at least 1"]


ENGINE = EngineSpec(
    name="echo",
    title="Echo",
    what="trains as fsdp2 does and says so in each rank's log",
    launch=Native(build="tgsbench_echo.engine:build"),
    options=EchoOptions,
    packages=TRAIN,
    rules=_rules,
)
