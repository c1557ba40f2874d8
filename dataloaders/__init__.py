"""Files of scans to volumes, and volumes to episodes."""
