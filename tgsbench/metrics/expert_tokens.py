"""How unevenly tokens went to experts, over all ranks."""

from __future__ import annotations

from collections.abc import Mapping

from tgsbench.schema.events import RoutedTokens
from tgsbench.schema.run import ExpertTokens


def expert_tokens(seen: Mapping[int, RoutedTokens], routing: str) -> ExpertTokens | None:
    """The busiest expert and the busiest rank of what each rank saw; None where nobody has experts.

    Experts of all ranks are not added up: each rank's grouped products run over its own tokens alone.
    """
    if not seen:
        return None
    received = [event.received for event in seen.values()]
    is_shared_out = sum(received) > 0
    return ExpertTokens(
        routing=routing,
        busiest_expert=max(event.busiest for event in seen.values()),
        busiest_rank=max(received) * len(received) / sum(received) if is_shared_out else None,
    )
