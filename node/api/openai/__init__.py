"""The HTTP API that programs written for OpenAI's find here.

A file a group of routes (``models``, ``embeddings``, ``chat``, ``completions``, the last two over
``generation``); ``front`` is what they share, ``app`` puts them behind ``node.api.access``. It is
imported only where the API is on.
"""
