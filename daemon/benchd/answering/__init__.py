"""Answer the audits of folders: read, decide, record, publish."""
