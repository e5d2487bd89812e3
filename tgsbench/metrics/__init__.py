"""Derived figures: TGS, TFLOPs, MFU, memory, integrity; computed here alone."""
