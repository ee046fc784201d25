"""Ways of setting the learning rate, to be compared.

`COMPETITORS` are those of the training scripts, on every backend: a dict from
name to a function `(learning_rate, num_steps) -> Competitor`, what goes into
the optimizer and into `fit`. `PEERS`, a dict from name to `Peer`, is the table
of the side-by-side benchmark: every method that wants to do what MetaLR does.
A `Trainee` is a model that one of them trains again and again.
"""

from keras_metalr.benchmark.competitors.methods import COMPETITORS
from keras_metalr.benchmark.competitors.methods import Competitor
from keras_metalr.benchmark.competitors.peer import Peer
from keras_metalr.benchmark.competitors.peer import Setting
from keras_metalr.benchmark.competitors.table import PEERS
from keras_metalr.benchmark.competitors.trainee import Trainee

__all__ = [
    "COMPETITORS",
    "PEERS",
    "Competitor",
    "Peer",
    "Setting",
    "Trainee",
]
