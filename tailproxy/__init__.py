"""The Kubernetes API server on a tailnet, each caller let in as who the tailnet says they are.

Read `tailproxy.interfaces` first: every seam of the service is there.
"""

__version__ = "0.1.0"
