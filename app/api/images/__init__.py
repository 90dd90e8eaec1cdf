"""The native image routes: `/generate-image` and its siblings."""
