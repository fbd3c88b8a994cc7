"""How a model is computed: one module an engine and architecture."""
