"""Typed documents and events; no IO."""
