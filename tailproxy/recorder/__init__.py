"""A recorder of our own: it takes recordings from proxies and keeps them."""
