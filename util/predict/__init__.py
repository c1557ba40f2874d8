"""Prediction on the user's own scans: read, segmented, and written on their own grid."""
