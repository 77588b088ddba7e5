"""The state of a session: variables and files, on their way out of one kernel and into another."""
