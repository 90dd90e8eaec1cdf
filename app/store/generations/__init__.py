"""Stored generations: rows that say what was asked and what became of it. Images are in the blob store."""

from app.store.generations.store import GenerationStore

__all__ = ["GenerationStore"]
