"""What a user asks of a tune, in words: checked once, for the command line and the terminal UI alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from msgspec import Struct

from tgsbench.errors import TgsError, nearest
from tgsbench.presets import catalog
from tgsbench.systems import registry
from tgsbench.tune.journal import Asked, Objective
from tgsbench.tune.trials import STAGES, Stage

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_BUDGET = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|min|h|gpu-?h(?:ours?)?)$")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_MOST_S = 366 * 86400


class TuneWords(Struct, frozen=True, kw_only=True):
    """A question as it was typed; an empty text asks for nothing."""

    preset_name: str = ""
    model: str = ""
    seq_len: str = ""
    gpu: str = ""
    num_gpus: int | None = None
    sets: tuple[str, ...] = ()
    tries: tuple[str, ...] = ()
    engines: str = ""
    objective: Objective = "tgs"
    stages: str = ""
    budget: str = "30m"
    prices: tuple[str, ...] = ()
    name: str = ""

    @property
    def base(self) -> str:
        """The preset that settings are laid over."""
        return self.preset_name or "_reference"

    @property
    def assignments(self) -> list[str]:
        """What is laid over it before anything is tuned."""
        asked = {"model": self.model, "workload.seq_len": self.seq_len, "hardware.num_gpus": self.num_gpus}
        asked |= {"hardware.device": "cpu"} if self.gpu == "cpu" else {"hardware.gpu": self.gpu}
        return [f"{key}={value}" for key, value in asked.items() if value] + list(self.sets)

    def asked(self) -> Asked:
        """The question. Raises TgsError when words are missing or name nothing that there is."""
        if (not self.preset_name) == (not self.model):
            raise TgsError("name what to tune: either --preset NAME or --model NAME", hint="tgsbench presets")
        needs_length = self.objective != "longest"
        if self.model and not ((self.seq_len or not needs_length) and self.gpu and self.num_gpus):
            raise TgsError("--model also needs --seq-len, --gpu and --num-gpus", hint="or name a --preset")
        return Asked(
            base=self.base,
            assignments=self.assignments,
            engines=self._engines(),
            tried=dict(map(_values, self.tries)),
            objective=self.objective,
        )

    def _engines(self) -> list[str]:
        for name in (engines := _words(self.engines)):
            registry.find_engine(name)
        return engines

    def tune_name(self) -> str:
        """The name asked for, else that of the preset or model. Raises TgsError for what is no file name."""
        about = Path(self.preset_name or self.model).name
        name = self.name or about.removesuffix(".toml").removesuffix(".json")
        if not catalog.is_name(name):
            raise TgsError(f"--name {name!r} may hold letters, digits, '_', '.', '-' only")
        return name

    def wanted_stages(self) -> list[Stage]:
        """Stages in their order, none where nobody asks. Raises TgsError for other words."""
        for word in _words(self.stages):
            if word not in STAGES:
                raise TgsError(f"--stages {word}: {nearest(word, list(STAGES))}")
        return [stage for stage in STAGES if stage in _words(self.stages)]

    def usd_per_hour(self) -> dict[str, float]:
        """Price of one GPU by name, "" for any. Raises TgsError for what is no price."""
        found = {}
        for word in self.prices:
            gpu, _, usd = word.rpartition("=")
            try:
                found[gpu] = float(usd)
            except ValueError:
                found[gpu] = 0.0
            if not 0 < found[gpu] < 1e6:
                raise TgsError(f"--price {word}: write USD for an hour of one GPU, 2.5 or H100-SXM5-80GB=2.5")
            if gpu and catalog.find_gpu(gpu) is None:
                near = nearest(gpu, catalog.files("presets", "hardware"))
                raise TgsError(f"--price {word}: no GPU of that name; {near}", hint="prices are in USD: 2.5")
        return found

    def options(self) -> list[str]:
        """The options that ask the same on the command line."""
        texts = {
            "preset": self.preset_name, "model": self.model, "seq-len": self.seq_len, "gpu": self.gpu,
            "num-gpus": str(self.num_gpus or ""), "engines": self.engines, "stages": self.stages,
            "budget": self.budget, "name": self.name,
            "objective": self.objective if self.objective != "tgs" else "",
        }  # fmt: skip
        found = [f"--{option}={text}" for option, text in texts.items() if text]
        many = {"set": self.sets, "try": self.tries, "price": self.prices}
        return found + [f"--{option}={text}" for option, some in many.items() for text in some]


def budget_seconds(text: str, num_gpus: int) -> float:
    """Seconds of a budget such as 30m or 4gpu-hours on this many GPUs.

    Raises TgsError for other words, nothing, and more than a year.
    """
    match = _BUDGET.match(text.strip().lower().replace(" ", ""))
    if match is None or float(match[1]) == 0:
        raise TgsError(f"--budget {text}: write 30m, 2h or 4gpu-hours")
    seconds = float(match[1]) * (_SECONDS[match[2]] if match[2] in _SECONDS else 3600 / num_gpus)
    if seconds > _MOST_S:
        raise TgsError(f"--budget {text}: more than a year; write 30m, 2h or 4gpu-hours")
    return seconds


def _values(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not _words(values):
        raise TgsError(f"--try {text}: write KEY=A,B", hint="--try engine.kernel=sdpa,flash2")
    return key.strip(), _words(values)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
