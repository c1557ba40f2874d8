"""Segments queries from their supports: the protocol, whole volumes, metrics, uncertainty."""
