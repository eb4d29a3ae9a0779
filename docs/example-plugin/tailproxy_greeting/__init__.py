"""A page of tailproxy that greets its caller."""
