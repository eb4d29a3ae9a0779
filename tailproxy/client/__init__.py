"""What the commands do for people: their kubeconfig, who they are, what a host's proxy decides."""
