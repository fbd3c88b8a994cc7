"""The ``openai`` backend: models of a server that speaks OpenAI's protocol (vLLM, SGLang,
llama.cpp, Ollama, Ray Serve LLM, another covey), offered to the mesh by this node.

Nothing here trusts the server: every answer is bounded before it is read and checked before it is
used. Nobody can verify what it computes with, and its models say so: see
``node.upstream.models``.
"""
