"""Other training systems, run as they are: their configuration, their command, their logs as our events."""
