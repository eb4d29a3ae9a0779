"""Pages of recorded sessions: found, seen, ended."""
