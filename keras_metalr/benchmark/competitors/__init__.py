"""Ways of setting the learning rate, to be compared.

`COMPETITORS` are those of the training scripts, on every backend: a function
from a rate to what goes into `fit`. `PEERS` is the table of the side-by-side
benchmark: every method that wants to do what MetaLR does.
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
