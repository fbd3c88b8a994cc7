"""The daemon's front doors over HTTP."""
