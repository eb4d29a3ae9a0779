"""A record of a request, to be varied."""

from tailproxy.interfaces import AccessRecord


def record(**changes) -> AccessRecord:
    values = {
        "user": "ada@corp.example",
        "node": "laptop.corp-cat.ts.net",
        "groups": ("dev",),
        "address": "100.64.0.5",
        "service": "svc:kube",
        "listener": "serve",
        "method": "GET",
        "path": "/api/v1/pods",
        "verb": "list",
        "status": 200,
        "sent": 1200,
        "received": 0,
        "duration": 0.02,
        "upgrade": "",
        "recorded": False,
        "denied": "",
        "user_agent": "kubectl/v1.36.0",
    }
    return AccessRecord(**{**values, **changes})
