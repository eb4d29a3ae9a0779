"""The data plane: listeners, the HTTP channel, the reverse proxy and the byte relay."""
