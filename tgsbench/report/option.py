"""An option of a preset as text: what it does, its values, and what each costs a preset."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tgsbench import units
from tgsbench.planner.option_effects import OptionEffect
from tgsbench.presets.options import Option, as_written

_WIDTH = 110


def option_line(option: Option) -> str:
    """One line of the list of all options: its name, and the first sentence or clause about it."""
    return f"{option.key:<35}{textwrap.shorten(option.what, _WIDTH - 35, placeholder=' …')}".rstrip()


def option_lines(option: Option) -> list[str]:
    """What an option does, its values, its default, and what it needs."""
    values = ", ".join(option.choices) or option.kind
    default = "none, it must be given" if option.default is None else as_written(option.default) or "empty"
    rows = {
        "values": values,
        "default": default,
        "engines": ", ".join(option.engines),
        "needs": option.needs,
        "set": f"--set {option.key}=VALUE, or in a preset's file",
    }
    lines = [option.key, *_wrapped(option.what, "  ")]
    for name, text in rows.items():
        if text:
            first, *more = textwrap.wrap(text, _WIDTH - 12)
            lines += [f"  {name:<9} {first}", *(f"{'':<12}{line}" for line in more)]
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def effect_lines(name: str, now: str, found: Sequence[OptionEffect]) -> list[str]:
    """Each value with planned TGS and memory in the preset `name`, which has `now`; refused ones say why."""
    width = max((len(effect.value) for effect in found), default=0) + 2
    lines = [
        "",
        f"{name}, planned:",
        f"    {'value':<{width}} {'TGS':>9} {'a GPU':>11} {'host':>11}  verdict",
    ]
    for effect in found:
        mark = "*" if effect.value == now else " "
        lines.append(f"  {mark} {effect.value:<{width}} {_planned(effect)}")
    return [
        *lines,
        "  * what it has now; `tgsbench plan` shows the terms, `plan --search` the fastest of all",
    ]


def _planned(effect: OptionEffect) -> str:
    if effect.problem:
        return f"refused: {effect.problem}"
    tgs = units.rate(effect.tgs) if effect.tgs is not None else "-"
    memory = f"{effect.memory_gib or 0.0:.2f} GiB"
    host = f"{effect.host_gib:.1f} GiB" if effect.host_gib else "-"
    return f"{tgs:>9} {memory:>11} {host:>11}  {effect.verdict}"
