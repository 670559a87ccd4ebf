"""`python -m benchmarks.demo`: a network with fused and with eager routers, in two minutes."""
