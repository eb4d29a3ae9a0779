"""Threads for what blocks, before, during and after their service."""

from __future__ import annotations

import threading

import pytest
import pytest_twisted
from twisted.internet import reactor

from tailproxy.record import threads as module
from tailproxy.record.threads import Threads


@pytest_twisted.ensureDeferred
async def test_work_is_done_in_a_thread_and_its_result_comes_back():
    threads = Threads(reactor)
    threads.startService()
    name = await threads(lambda: threading.current_thread().name)
    assert "recordings" in name
    with pytest.raises(OSError, match="full"):
        await threads(_fail)
    await threads.stopService()


def _fail():
    raise OSError("full")


@pytest_twisted.ensureDeferred
async def test_after_the_end_work_is_done_all_the_same():
    threads = Threads(reactor)
    threads.startService()
    await threads.stopService()
    name = await threads(lambda: threading.current_thread().name)
    assert "recordings" not in name


@pytest_twisted.ensureDeferred
async def test_the_end_does_not_wait_for_a_disk_that_hangs(monkeypatch):
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.01)
    threads = Threads(reactor)
    threads.startService()
    hang = threading.Event()
    hanging = threads(hang.wait)
    await threads.stopService()
    assert not hanging.called
    hang.set()
    assert await hanging
