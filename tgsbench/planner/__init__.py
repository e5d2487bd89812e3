"""Forecasts: does it fit, how fast will it be, what to change."""
