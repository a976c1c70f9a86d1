"""Declare each setting once, and read `config.toml`. Pure."""
