"""Meta-training: the controller learns on thousands of small runs (JAX only).

    families -> tasks -> unroll (one whole run) -> evolution of the controller

Needs the extra `[meta]` and the JAX backend. Nothing in the rest of the package
uses it; what it makes is a preset folder.
"""
