"""`python -m benchmarks.comparison`: the deployments measured on the same work, each alone, then two side by side."""
