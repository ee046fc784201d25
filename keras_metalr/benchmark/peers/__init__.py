"""The side-by-side benchmark: every method from starts far too low and high.

`plan` says which runs, `cell` makes those of one workload and method,
`schedule` all of them, `scores` turns them into figures, and `page` writes the
page:

    python scripts/benchmark.py --set smoke
    python -m keras_metalr.benchmark.peers --check
"""
