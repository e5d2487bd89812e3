"""What an interpreter printed as it died: which of its exceptions was the cause; pure."""

from __future__ import annotations

import re

_RANK = r"(?:\[rank\d+\]:\s?)?"
_RAISED = re.compile(
    rf"^{_RANK}((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?:: .*)?$", re.M
)
_LEADS_TO = re.compile(
    rf"^{_RANK}(?:The above exception was the direct cause of the following exception:"
    r"|During handling of the above exception, another exception occurred:)$",
    re.M,
)
_OF_THE_LAUNCHER = "ChildFailedError"


def root_cause(text: str) -> str:
    """The line of the exception that began the last chain: later ones only say what could not be done for it.

    Empty where the text has no exception but torchrun's own.
    """
    raised = [match for match in _RAISED.finditer(text) if _OF_THE_LAUNCHER not in match[0]]
    if not raised:
        return ""
    at = len(raised) - 1
    while at and _LEADS_TO.search(text, raised[at - 1].end(), raised[at].start()):
        at -= 1
    return re.sub(f"^{_RANK}", "", raised[at][0].strip())
