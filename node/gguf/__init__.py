"""Models in GGUF files, converted once into the files that runners read. Pure but for ``convert``,
and without any engine.
"""
