"""HolisticTraceAnalysis' side of the trace benchmark; runs in an environment of its own.

Argument: a trace. Prints one JSON line: seconds of its load and of its three breakdowns, and its answers in
microseconds. Its rounding of times to whole microseconds is switched off: with it, kernels of 20 µs would
differ by 5 %, and it would take longer.
"""

import json
import logging
import os
import re
import sys
import time
from pathlib import Path

os.environ["HTA_DISABLE_NS_ROUNDING"] = "1"


def main():
    from hta.trace_analysis import TraceAnalysis

    logging.disable(logging.CRITICAL)
    began_cpu_s, began_s = time.process_time(), time.perf_counter()
    analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, include_last_profiler_step=True)
    load_s = time.perf_counter() - began_s
    temporal = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    overlap = analysis.get_comm_comp_overlap(visualize=False).iloc[0]
    kinds, _ = analysis.get_gpu_kernel_breakdown(visualize=False, include_memory_kernels=True)
    answer = {
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "load_s": load_s,
        "peak_mb": int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024,
    }
    comm_us = sum(row["sum"] for _, row in kinds.iterrows() if "COMMUNICATION" in row["kernel_type"])
    answer["compute_us"] = float(temporal["compute_time(us)"])
    answer["comm_us"] = float(comm_us)
    answer["overlap_us"] = float(overlap["comp_comm_overlap_pctg"]) / 100 * float(comm_us)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
