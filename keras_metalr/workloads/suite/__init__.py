"""Small workloads on real data, to compare many methods with many runs.

Fourteen of them, each minutes or less on a CPU. `SUITE` is a dict from name to
`suite.table.Entry`, which says what kind of network it is and what it shares
with meta-training:

    workload = SUITE["digits_conv"].workload()    # a `workloads.Workload`
"""

from keras_metalr.workloads.suite.table import SUITE

__all__ = ["SUITE"]
