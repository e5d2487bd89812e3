"""What tgsbench knows of an engine before anybody looked at this machine: one EngineSpec an engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msgspec import Struct

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.costs import System

if TYPE_CHECKING:
    from tgsbench.systems.log_lines import LogReader

Kind = Literal["native", "external"]
Options = TypeVar("Options", bound=EngineOptions)


class Package(Struct, frozen=True):
    """A module that an engine imports in our ranks."""

    module: str
    extra: str
    """Extra of tgsbench that installs it."""
    distribution: str = ""
    """Name on the package index where it is not the module's."""


TRAIN = (Package("torch", "train"), Package("transformers", "train"), Package("numpy", "train"))
"""What every engine needs that trains in our ranks."""


class EnvironmentRecipe(Struct, frozen=True, kw_only=True):
    """What the environment of a system holds that runs outside ours."""

    version: str
    """The release that the adapter was tested with."""
    requirements: tuple[str, ...]
    needs: tuple[str, ...]
    """Distributions that must be there, the system's own first."""
    source: str = ""
    """What the user must give because no package index has it: a checkout or a wheel; empty: nothing."""
    modules: tuple[str, ...] = ()
    """Files below site-packages that tell the system from a release of the same number without them."""
    below_python: tuple[int, int] = (4, 0)
    disk_gb: float = 0.0
    """What the environment takes on disk; 0: nobody has measured it."""
    minutes: float = 0.0
    """What installing took on two cores with a near index."""


class Limit(Struct, frozen=True, kw_only=True):
    """One thing that an engine cannot do, in which releases, and what avoids it."""

    what: str = ""
    """Said when a preset asks for it; `{preset.parallel.sp}` stands for the preset's value."""
    remedy: str = ""
    asked: Callable[[Preset], bool] | None = None
    """Does this preset ask for it? None: no preset can be told, it is only listed."""
    listed: str = ""
    """How `tgsbench engines` words it; empty: not listed there."""
    since: str = ""
    """First release that has this limit; empty: every known one."""
    until: str = ""
    """First release without it; empty: none yet."""

    def holds(self, version: str) -> bool:
        """Does it hold for this release? An unknown one (empty) has every limit."""
        if not version:
            return True
        release = release_of(version)
        ended = bool(self.until) and release >= release_of(self.until)
        return release >= release_of(self.since) and not ended


NO_BF16_ON_CPU = Limit(
    what="no bf16 training on a CPU",
    remedy="--set training.compute_dtype=float32",
    asked=lambda preset: preset.hardware.device == "cpu" and preset.training.compute_dtype == "bfloat16",
)
NO_DOCUMENT_BORDERS = Limit(
    what="packs are handed to it whole, without document borders",
    remedy="--set workload.document_mask=false",
    asked=lambda preset: preset.workload.document_mask,
    listed="no document mask in the packs that it is handed",
)
FULL_PACKS_ALONE = Limit(
    what="packs shorter than the sequence (packing {preset.workload.packing})",
    remedy="--set workload.packing=carry",
    asked=lambda preset: preset.workload.packing != "carry",
)
NO_LIGER = Limit(
    what="no Liger kernels", remedy="--set engine.liger=false", asked=lambda preset: preset.engine.liger
)


class AdvisedChange(Struct, frozen=True, kw_only=True):
    """Switches of this engine that the planner may advise."""

    switches: dict[str, Any]
    effort: int
    """What it costs to do; the planner's other changes range from 0 to 38."""
    what: str
    from_others: bool = False
    """True: advised to presets of other engines, which would change to this one."""


class Native(Struct, frozen=True, kw_only=True):
    """An engine that trains in our ranks; entries are `module:attribute`, imported by the ranks alone."""

    build: str
    """(preset, mesh, device, note) -> `training.engines.base.Engine`."""
    make_batches: str = ""
    """(preset, mesh, data, device) -> `training.engines.batches.Batches`; empty: those."""
    preload: str = ""
    """() -> None, imports what `build` will on a CPU; empty: the module of `build`."""


class External(Struct, frozen=True, kw_only=True):
    """A system that runs as it is, in an environment of its own."""

    adapter: str
    """`module:attribute` of its `external.adapter.Adapter`."""
    recipe: EnvironmentRecipe
    observed: Literal["never", "asked", "always"] = "asked"
    """Are its ranks watched by `external/peer/observe.py`? Always where its log has no tokens or no clock,
    never where a script of ours counts anyway, else when TGSBENCH_OBSERVE=1 asks for it."""
    not_on_virtual_gpu: str = ""
    """Why its ranks cannot run on a virtual GPU; empty: they can."""


class EngineSpec(Struct, frozen=True, kw_only=True):
    """One engine."""

    name: str
    title: str
    """The name as its makers write it."""
    what: str
    launch: Native | External
    options: type[EngineOptions] = EngineOptions
    """Its switches and their defaults, as `--set engine.SWITCH=VALUE` and the [engine] table name them."""
    packages: tuple[Package, ...] = ()
    """What it imports in our ranks."""
    rules: Callable[[Preset], list[str]] | None = None
    """Rules that join several values of a preset, each broken one with its remedy."""
    families: tuple[str, ...] = ()
    """Families of models that it was proved on; empty: every family that is trained."""
    limits: tuple[Limit, ...] = ()
    machine_limits: Callable[[], list[str]] | None = None
    """What it cannot do on this machine as it stands."""
    costs: System | None = None
    """None: the planner knows nothing of it."""
    variants: tuple[dict[str, Any], ...] = ()
    """Settings of its switches that `tgsbench plan --search` tries."""
    advice: tuple[AdvisedChange, ...] = ()
    unequal: tuple[str, ...] = ()
    """What it does otherwise than our ranks whatever a preset asks, for whoever compares their figures."""
    another_trainer: Callable[[EngineOptions], EngineSpec | None] | None = None
    """The engine as it is where its options ask for another trainer of the same environment, else None."""
    read_log: LogReader | None = None
    """How its log is read by `tgsbench import`."""
    log_note: str = ""
    """What to know of figures read from its log."""

    @property
    def kind(self) -> Kind:
        """Does it train in our ranks, or in an environment of its own?"""
        return "native" if isinstance(self.launch, Native) else "external"

    def with_options(self, options: EngineOptions) -> EngineSpec:
        """The engine as these options of it ask for it."""
        return (self.another_trainer and self.another_trainer(options)) or self


def options_of(preset: Preset, kind: type[Options]) -> Options:
    """The preset's engine options as the struct that its engine declares; for the code of that engine."""
    assert isinstance(preset.engine, kind), f"{preset.engine.name} has no {kind.__name__}"
    return preset.engine


def release_of(version: str) -> tuple[int, ...]:
    """Leading numbers of a version, for comparison: "0.19.8+cpu" is (0, 19, 8)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
