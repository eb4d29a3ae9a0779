"""Worker processes: how many, what they are told, who gets a connection, who replaces whom."""
