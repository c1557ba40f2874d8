"""Task files: outlined scans, names of labels and a method in one archive, from which other scans are segmented."""
