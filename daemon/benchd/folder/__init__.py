"""Access a watched folder: its names, scans, safe reads, atomic writes, and the state of each audit."""
