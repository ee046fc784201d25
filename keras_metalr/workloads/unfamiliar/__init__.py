"""Nets of kinds, and with losses, that meta-training has not seen."""

from keras_metalr.workloads.unfamiliar.kinds import kind_nets
from keras_metalr.workloads.unfamiliar.losses import loss_nets

__all__ = ["kind_nets", "loss_nets"]
