"""Pure protocol readers and writers: bytes in, values out. Nothing here does I/O."""
