"""Measures tailproxy beside other proxies, in one run: `python -m bench`, see docs/performance.md."""
