"""Bytes -> Audit: what the file says, and why a file can't be used. Pure."""
