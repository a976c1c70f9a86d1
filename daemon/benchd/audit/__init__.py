"""Read audits, and explain why a file can't be used. Pure."""
