"""Small workloads on real data, to compare many methods with many runs.

Fourteen of them, each minutes or less on a CPU: `SUITE` says of each what kind
of network it is and what it shares with meta-training.
"""

from keras_metalr.workloads.suite.table import SUITE

__all__ = ["SUITE"]
