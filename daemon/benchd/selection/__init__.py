"""Audit -> Selection: the ladder, priorities and ranks. Pure."""
