"""What of a whole layer's all-to-alls nothing hides: its products and attention, and its exchanges, in turn.

Both sides are queues in the order in which the layer launches (training/model/whole_layer.py). What is
element-wise hides nothing here.
"""

from __future__ import annotations

from msgspec import Struct


class Pieces(Struct, frozen=True, kw_only=True):
    """Seconds of one pass of a layer on one rank, by itself each."""

    query: float
    """The projection of q, and so below."""
    key_value: float
    output: float
    attention: float
    send_query: float
    """The all-to-all of q, and so below."""
    send_key_value: float
    send_output: float
    chunks: int
    """Parts of the heads: q, attention and the output go part by part."""

    @property
    def in_flight(self) -> float:
        """Seconds of all exchanges, one after the other."""
        return self.send_query + self.send_key_value + self.send_output


class _Queues:
    """Computation and exchanges, each in order."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._computed = self._sent = 0.0

    def compute(self, seconds: float) -> None:
        self._computed += seconds

    def send(self, seconds: float) -> float:
        """When an exchange that is ready now has arrived."""
        self._sent = max(self._sent, self._computed) + seconds
        return self._sent

    def wait(self, arrival: float) -> None:
        gap = max(0.0, arrival - self._computed)
        self.waited += gap
        self._computed += gap


def exposed_forward(p: Pieces) -> float:
    """Seconds in which the forward stands still for its exchanges."""
    queues, parts = _Queues(), range(p.chunks)
    queues.compute(p.key_value)
    both = queues.send(p.send_key_value)
    queries = [_made(queues, p.query / p.chunks, p.send_query / p.chunks) for _ in parts]
    queues.wait(both)
    outputs = []
    for query in queries:
        queues.wait(query)
        outputs.append(_made(queues, p.attention / p.chunks, p.send_output / p.chunks))
    for output in outputs:
        queues.wait(output)
        queues.compute(p.output / p.chunks)
    return queues.waited


def exposed_backward(p: Pieces) -> float:
    """The same of the backward, whose gradients go the other way; products of weights' gradients hide too."""
    queues, parts = _Queues(), range(p.chunks)
    outputs = [_made(queues, p.output / p.chunks, p.send_output / p.chunks) for _ in parts]
    queries = []
    for output in outputs:
        queues.wait(output)
        queries.append(_made(queues, p.attention / p.chunks, p.send_query / p.chunks))
    both = queues.send(p.send_key_value)
    queues.compute(p.output)
    for query in queries:
        queues.wait(query)
        queues.compute(2.0 * p.query / p.chunks)
    queues.wait(both)
    return queues.waited


def _made(queues: _Queues, seconds: float, send: float) -> float:
    """Compute something and send it off; when it has arrived."""
    queues.compute(seconds)
    return queues.send(send)
