"""Networks in namespaces, for benchmarks, tests and trying things out."""
