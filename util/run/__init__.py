"""A run: the Sacred experiment, its folder, what it was made of, and which earlier one goes on."""
