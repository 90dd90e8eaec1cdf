"""Recorded generations: rows that say what was asked and what became of it. Images are in the blob store.

`GenerationStore` has the verbs. Each is one database transaction. An answer of Gemini is in the blob store before the
row says so, and `reap` finds it there if the process dies in between.
"""

from app.store.generations.queries import GenerationCounts
from app.store.generations.reaping import ReapResult
from app.store.generations.rows import Lifetimes
from app.store.generations.store import GenerationStore

__all__ = ["GenerationCounts", "GenerationStore", "Lifetimes", "ReapResult"]
