"""The settings: declared once each, and read from `config.toml`. Pure."""
