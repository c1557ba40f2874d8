"""A query segmented from its supports: the protocol, whole volumes, metrics, uncertainty."""
