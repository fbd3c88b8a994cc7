"""The node: the daemon that submits and runs jobs, its command line, its API and its runners."""
