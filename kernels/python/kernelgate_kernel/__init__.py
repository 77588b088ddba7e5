"""What runs inside a Python container: ipykernel, fitted to a sandbox. Imports nothing of the server."""
