"""Admission queue, retries, circuit breakers."""
