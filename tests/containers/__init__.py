"""`make container`: test deploy/ with real containers."""
