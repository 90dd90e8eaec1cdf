"""Recorded generations: run once, stored, and returned to everybody who asks for the same again."""
