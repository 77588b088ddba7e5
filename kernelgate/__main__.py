"""``python -m kernelgate``."""

from .app import main

main()
