"""Write the config for a selection, and check whether an existing config is still valid. Pure."""
