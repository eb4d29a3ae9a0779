"""Makes `twistd tailproxy`. Nothing of the service is imported until it is asked for."""

from twisted.application.service import ServiceMaker

tailproxy = ServiceMaker(
    "tailproxy",
    "tailproxy.tap",
    "The Kubernetes API server on a tailnet.",
    "tailproxy",
)
