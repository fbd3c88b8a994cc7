"""What peers agree on: pure protocol logic, without I/O, clock or randomness (but for
``protocols.transport``).
"""
