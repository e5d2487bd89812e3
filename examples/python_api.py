"""Forecast a preset, measure it two ways, and compare."""

import tgsbench

forecast = tgsbench.plan("llama2_70b_128k", gpu="H100-SXM5-80GB")
print(forecast.verdict, forecast.memory.total_gib, forecast.tgs)

full = tgsbench.run("tiny_cpu", {"measure.steps": 6, "training.checkpointing": "full"})
none = tgsbench.run("tiny_cpu", {"measure.steps": 6, "training.checkpointing": "none"})
for found in tgsbench.compare(full, none):
    print(found.verdict, found.ratio, [difference.what for difference in found.differences])
print(tgsbench.load_run("latest").mem.peak_gib)
