"""Select layers of an audit: the ladder, priorities and ranks. Pure."""
