"""Recorded generations: each runs once and is stored, and requests that repeat it get the stored result."""
