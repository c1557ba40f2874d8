"""A run: the Sacred experiment, the run folder, provenance, and which earlier run is resumed."""
