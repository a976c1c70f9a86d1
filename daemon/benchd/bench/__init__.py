"""Write the config for a selection, and check whether it still holds. Pure."""
