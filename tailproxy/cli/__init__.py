"""Commands of the `tailproxy` program: argument parsing only."""
