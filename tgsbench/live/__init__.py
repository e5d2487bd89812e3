"""A run as it is followed: one fold of its events, one loop that reads them, what is shown of it."""
