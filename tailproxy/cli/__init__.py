"""The command `tailproxy`, also `kubectl tailproxy`: what people run beside kubectl."""
