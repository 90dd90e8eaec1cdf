"""Chats: turns, history, leases."""
