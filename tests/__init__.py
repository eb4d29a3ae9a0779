"""The tests of tailproxy, and the lab they run in."""
