"""The JSON schema of a preset file, for editors that complete and check TOML by one."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tgsbench.schema.descriptions import descriptions
from tgsbench.schema.preset import ModelShape, Preset, Workload
from tgsbench.systems import registry

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_LENGTH: Final = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[kKmMgG]?i?\s*$"}
"""A length as `units.parse_length` reads it: 128k, 1M."""


def preset_schema() -> dict[str, Any]:
    """What a preset's file may say: the structs' schema, and what is read into them.

    A file may extend another preset, name a model, and write a length as text. No key is required, for each
    may come from what the file extends: what is missing in the end, `tgsbench presets validate` says. An
    [engine] table has the switches of one engine; plug-ins that are installed count.
    """
    specs = registry.engines()
    shapes: list[type[msgspec.Struct]] = [Preset, *(spec.options for spec in specs)]
    (root, *engines), tables = msgspec.json.schema_components(shapes, ref_template="#/$defs/{name}")
    for table in tables.values():
        table.pop("required", None)
    for struct in _tables(shapes):
        for field, text in descriptions(struct).items():
            tables[struct.__name__]["properties"][field].setdefault("description", text)
    for spec, engine in zip(specs, engines, strict=True):
        options = tables[engine["$ref"].rpartition("/")[2]]
        options["properties"]["name"] = {"const": spec.name}
    keys = tables[Preset.__name__]["properties"]
    keys["extends"] = {"type": "string", "description": "Name of the preset that this one changes."}
    keys["model"] = {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{ModelShape.__name__}"}]}
    keys["engine"] = {"anyOf": engines}
    workload = tables[Workload.__name__]["properties"]
    workload["seq_len"] = {"anyOf": [workload["seq_len"], _LENGTH]}
    return {"$schema": _DRAFT, "title": "tgsbench preset", **root, "$defs": tables}


def _tables(shapes: list[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """The structs that a preset's tables are typed by."""
    of_preset = (field.type for field in msgspec.structs.fields(Preset))
    return [*shapes, *(t for t in of_preset if isinstance(t, type) and issubclass(t, msgspec.Struct))]
