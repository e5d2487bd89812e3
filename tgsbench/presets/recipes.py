"""Capture recipes: found and read like presets, without torch."""

from __future__ import annotations

import msgspec

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets import catalog
from tgsbench.safe_files import read_toml, reason_of
from tgsbench.schema.recipe import Recipe


def load_recipe(name: str) -> Recipe:
    """The recipe profiles/NAME.toml of ./profiles, the config folder or the shipped ones.

    Raises TgsError naming the nearest recipe, or what is wrong in the file.
    """
    known = catalog.files("profiles")
    if name not in known:
        raise TgsError(
            f"no capture recipe called {name!r}; {nearest(name, known)}",
            hint="recipes are TOML files in ./profiles or in the profiles folder of the config folder",
            exit_code=ExitCode.BAD_PRESET,
        )
    try:
        recipe = msgspec.convert({"name": name, **read_toml(known[name])}, Recipe)
    except msgspec.ValidationError as error:
        raise TgsError(f"{known[name]}: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET) from error
    if recipe.active_steps < 1 or recipe.warmup_steps < 0:
        raise TgsError(
            f"{known[name]}: active_steps must be at least 1 and warmup_steps at least 0",
            exit_code=ExitCode.BAD_PRESET,
        )
    return recipe


def num_profile_steps(recipe: Recipe) -> int:
    """Optimizer steps that a capture adds after the measured ones."""
    return recipe.warmup_steps + recipe.active_steps
