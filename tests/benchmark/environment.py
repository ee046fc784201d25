"""What the made-up records of these tests say that they were made on."""

ENVIRONMENT = {
    "python": "3.11.1",
    "backend": "jax",
    "versions": {"jax": "0.10", "keras": "3.15", "tensorflow": "2.21"},
    "accelerator": None,
    "processor": "x86_64",
    "num_cores": 2,
    "git_revision": "0123456789abcdef",
}
