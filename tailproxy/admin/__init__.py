"""The admin listener: probes, metrics and version."""
