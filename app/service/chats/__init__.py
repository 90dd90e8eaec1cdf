"""Chats: turns, history."""
