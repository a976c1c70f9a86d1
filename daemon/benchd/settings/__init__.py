"""config.toml -> Settings. Pure."""
