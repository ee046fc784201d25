"""Runs workloads with several methods, and records and scores the runs."""

from keras_metalr.benchmark.competitors import COMPETITORS
from keras_metalr.benchmark.competitors import Competitor
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.runner import run

__all__ = ["COMPETITORS", "Competitor", "RunConfig", "RunResult", "run"]
