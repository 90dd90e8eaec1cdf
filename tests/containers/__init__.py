"""`make container`: what deploy/ promises, with real containers."""
