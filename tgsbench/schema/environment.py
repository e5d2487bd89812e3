"""What machine and software a run was made on: env.json, and with the ranks' versions in result.json."""

from __future__ import annotations

from msgspec import Struct


class Environment(Struct, kw_only=True, omit_defaults=True):
    """Hardware and software of one machine; None is what the file does not say, and is not written."""

    tgsbench: str | None = None
    python: str | None = None
    platform: str | None = None
    cpu: str | None = None
    """The processor's model."""
    num_cores: int | None = None
    """Cores that this process may use."""
    memory_gib: float | None = None
    """Main memory."""
    gpus: list[str] | None = None
    """Names as the driver gives them, one per GPU."""
    packages: dict[str, str] | None = None
    """Versions of what is installed on the machine that launched."""
    load_1min_at_start: float | None = None
    versions: dict[str, str] | None = None
    """Versions that rank 0 imported."""

    @property
    def software(self) -> dict[str, str]:
        """Versions by package: those that the ranks imported, else what was installed."""
        return self.versions or self.packages or {}
