"""Watch folders: turn events and scans into hints for the inbox. Knows names of files, but not audits."""
