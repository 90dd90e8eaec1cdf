"""The routes of recorded generations: `/generations` and everything below."""
