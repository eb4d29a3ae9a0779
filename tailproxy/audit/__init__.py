"""What happened, told: the access log and how log events are written."""
