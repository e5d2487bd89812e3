"""DeepSpeed ZeRO 1, 2, 3 under its own Ulysses (ALST) or under our fused all-to-all."""
