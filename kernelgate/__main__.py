"""``python -m kernelgate``."""

from kernelgate.app import main

main()
