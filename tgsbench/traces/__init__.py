"""Profiler captures: spans, traces, where the time goes."""
