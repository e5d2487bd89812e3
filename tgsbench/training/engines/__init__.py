"""Engines that train inside our ranks: built once, in a process of their own."""
