"""A watched folder's files: names, standing, scans, safe reads and whole writes."""
