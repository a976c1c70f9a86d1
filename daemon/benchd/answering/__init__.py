"""Answer audits of folders: read, decide, record, publish."""
