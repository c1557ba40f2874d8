"""Commands that make, prepare and check data sets."""
