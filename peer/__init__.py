"""What a node and an aggregator share as peers: identity, journal, feeds, hello, join, exchange and
the control socket.
"""
