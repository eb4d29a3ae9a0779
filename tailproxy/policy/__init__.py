"""Who a caller is and what may happen: pure functions that fail closed."""
