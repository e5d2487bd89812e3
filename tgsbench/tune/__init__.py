"""From a model, a length and GPUs to the fastest settings that hold: planned, then measured."""
