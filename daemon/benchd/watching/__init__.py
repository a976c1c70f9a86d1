"""Events and scans -> inbox. Knows folders and names, and nothing of audits."""
