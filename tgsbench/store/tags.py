"""Tags of a run: words that a user puts into its run.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tgsbench.errors import TgsError
from tgsbench.schema.run import Manifest
from tgsbench.store.run_dir import RunDir, unwritable

_TAG: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")


def check_tags(words: Sequence[str]) -> None:
    """Raise TgsError when one of these words cannot be a tag."""
    for word in words:
        if not _TAG.match(word.removeprefix("^")):
            raise TgsError(f"tag {word!r} may hold letters, digits, '_', '.', '-', ':' only")


def change_tags(run: RunDir, words: Sequence[str]) -> list[str]:
    """Add tags to a run, remove those written ^NAME; the tags it has then.

    Raises TgsError when one is no tag, or the run cannot be read or written.
    """
    check_tags(words)
    added = [word for word in words if not word.startswith("^")]
    removed = {word[1:] for word in words if word.startswith("^")}

    def change(manifest: Manifest) -> None:
        kept = [tag for tag in manifest.tags if tag not in removed]
        manifest.tags = list(dict.fromkeys([*kept, *added]))

    try:
        return run.change_manifest(change).tags
    except OSError as error:
        raise unwritable(run.path, error) from error
