"""Scans of one's own: read, segmented, written on their own grid."""
