"""Loaded by every Python that has this folder on PYTHONPATH: timers around attention and all-to-all.

Rank 0 writes one JSON line per step to $TGSBENCH_TEST_TIMERS; the product knows nothing of it.
"""

import json
import os
import sys
import time

_spent = {"attention_fwd": 0.0, "attention_bwd": 0.0, "all_to_all": 0.0}


def _timed(kind, call):
    def timed(*args, **kwargs):
        begin = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            _spent[kind] += time.perf_counter() - begin

    return timed


def _attention_node(tensor):
    node = tensor.grad_fn
    while "ScaledDotProduct" not in node.name():
        node = node.next_functions[0][0]
    return node


def _time_backward(node):
    begin = []
    node.register_prehook(lambda *_: begin.append(time.perf_counter()))
    node.register_hook(lambda *_: _add_backward(begin.pop()))


def _add_backward(begin):
    _spent["attention_bwd"] += time.perf_counter() - begin


def _install(path):
    from tgsbench.training import loop
    from tgsbench.training.attention import attention
    from tgsbench.training.parallel import ulysses

    attend = _timed("attention_fwd", attention.UlyssesAttention.attend)

    def with_backward(*args, **kwargs):
        out = attend(*args, **kwargs)
        if out.requires_grad:
            _time_backward(_attention_node(out))
        return out

    attention.UlyssesAttention.attend = with_backward
    ulysses.all_to_all = _timed("all_to_all", ulysses.all_to_all)
    step = loop.Stepper.step

    def noted(self, index, phase):
        _spent.update(dict.fromkeys(_spent, 0.0))
        if os.environ["RANK"] != "0":
            return step(self, index, phase)
        done = step(self, index, phase)
        with open(path, "a") as file:
            file.write(json.dumps({"step": index, "phase": phase, "step_s": done.step_s, **_spent}) + "\n")
        return done

    loop.Stepper.step = noted


_path = os.environ.get("TGSBENCH_TEST_TIMERS")
if _path and not {"tgsbench.training", "tgsbench.training.agent"}.isdisjoint(sys.orig_argv):
    _install(_path)
