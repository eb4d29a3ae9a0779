"""The API server as an upstream: its address, credentials and our rights there."""
