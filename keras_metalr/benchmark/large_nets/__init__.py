"""MetaLR beside tuned schedules on ResNet-18 and on a pretrained encoder.

`benchmarks/large_nets.py` makes the runs; here are what it trains and the page.
"""
