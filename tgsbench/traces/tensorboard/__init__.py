"""TensorBoard with torch-tb-profiler: traces of torch 2 made legible for it, its pages work offline."""
