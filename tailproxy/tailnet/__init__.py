"""tailscaled: its LocalAPI, who a caller is, whether the node is up, its certificates."""
