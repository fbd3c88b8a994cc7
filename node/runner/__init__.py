"""Runners: the processes that hold a model and compute. Only modules below this package may import
torch, and only when they need it.
"""
