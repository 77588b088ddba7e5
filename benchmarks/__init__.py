"""Benchmarks: what a request, a start and a kernel cost, beside stock ipykernel and a stock kernel gateway."""
