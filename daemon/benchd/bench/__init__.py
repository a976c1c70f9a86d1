"""Selection -> the bytes of a config, and what they must be to hold. Pure."""
