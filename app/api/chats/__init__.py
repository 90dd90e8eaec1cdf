"""The chat routes: `/chats` and everything below."""
