"""Keeps what JAX compiled, for functions that are traced again."""

import atexit
import functools
import shutil
import tempfile

import keras

_MIN_SECONDS = 0.3


@functools.cache
def keep_compiled() -> None:
    """Let this process compile equal programs once.

    `MetaLR` gives the model a new train step in every `fit`. It is the same
    program each time, which JAX finds in a folder of its own (a temporary one,
    gone with the process). Nothing is done where such a folder is set already,
    and on other backends.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS
    )
