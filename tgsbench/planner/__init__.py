"""Does it fit, how fast will it be, what should change: answered without torch and without a GPU."""

from tgsbench.planner.advice import advise
from tgsbench.planner.plan import forecast_preset, states_bytes

__all__ = ["advise", "forecast_preset", "states_bytes"]
