"""Measures tailproxy beside other proxies in one run: `python -m bench`, docs/performance.md."""
