"""Threads in the test's hands."""

from __future__ import annotations

from twisted.internet.defer import Deferred, maybeDeferred


class Threads:
    """Does what is to be done in a thread at once, or when the test says so."""

    def __init__(self):
        self.held = None

    def hold(self):
        self.held = []

    def release(self):
        held, self.held = self.held, None
        for work, done in held:
            maybeDeferred(work).chainDeferred(done)

    def __call__(self, work):
        if self.held is None:
            return maybeDeferred(work)
        done = Deferred()
        self.held.append((work, done))
        return done
