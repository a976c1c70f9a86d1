"""Read audits: what a file says, and why it can't be used. Pure."""
