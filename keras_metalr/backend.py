"""What differs between TensorFlow, JAX and torch, and nothing else."""

import contextlib
import functools
import math
import types
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metalr.row_gradient import MIN_SIZE
from keras_metalr.row_gradient import RowGradient
from keras_metalr.row_gradient import summed_rows

Tensor = Any

# Keras settles it when it is imported, and a step asks for it a hundred times.
_NAME = str(keras.backend.backend())
_NATIVE_OPS: Any = ops
if _NAME == "torch":
    from keras_metalr import torch_ops

    _NATIVE_OPS = torch_ops


def name() -> str:
    """The Keras backend of this process."""
    return _NAME


def native_ops() -> Any:
    """`keras.ops` for what is known to be native tensors.

    On torch the part of them that is in `torch_ops`.
    """
    return _NATIVE_OPS


def measurable(
    gradient: Tensor | None, shape: Sequence[int]
) -> Tensor | RowGradient | None:
    """A gradient as one tensor, or by its rows; TensorFlow's may be sparse.

    Args:
        gradient: Tensor, `tf.IndexedSlices` or `None`.
        shape: Sequence of integers, the variable's.
    """
    if gradient is not None and _NAME == "tensorflow":
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            # Replicas have rows of their own, and must add up all.
            if math.prod(shape) < MIN_SIZE or _replicas() > 1:
                return tf.convert_to_tensor(gradient)
            return summed_rows(gradient)
    return gradient


def native(tensor: Any) -> Tensor:
    """The native tensor of a `keras.Variable`, or of what `noted` returned.

    A native tensor itself.
    """
    if _NAME == "torch" and isinstance(tensor, (np.ndarray, np.generic)):
        import torch

        return torch.from_numpy(np.asarray(tensor))
    return tensor.value if isinstance(tensor, keras.Variable) else tensor


def noted(tensor: Tensor) -> Any:
    """A native tensor, as the bookkeeping has it.

    NumPy's array or scalar where the host can look without waiting, on torch's
    CPU: what is done with scalars, a hundred operations a step and four hundred
    a decision, takes a tenth of the time there. An array is a view of the
    tensor. What is no tensor stays as it is.
    """
    return tensor.numpy()[()] if at_hand(tensor) else tensor


def read(variable: keras.Variable) -> Tensor:
    """The value that a variable has now, a native tensor.

    On torch it changes with the variable.
    """
    # What else `convert_to_tensor` looks at is known here.
    return (
        variable.value if _NAME == "torch" else ops.convert_to_tensor(variable)
    )


def assign(variable: keras.Variable, value: Tensor) -> None:
    """`variable.assign` of a native tensor, or of what `noted` returned."""
    if _NAME == "torch":
        # What else `assign` looks at is known here.
        variable.value.copy_(native(value))
    else:
        variable.assign(value)


def loss_scalar(loss: Tensor) -> Tensor:
    """What a backend differentiates of a loss, as a scalar, float32.

    TensorFlow's gradient of a loss for each example is that of their sum; on
    the others it has one element.
    """
    if _NAME == "torch":
        return _single_precision(loss if loss.ndim == 0 else loss.reshape(()))
    return ops.sum(ops.cast(loss, "float32"))


def check_of_one_trace(value: Tensor, others: Sequence[Tensor]) -> None:
    """Raise on JAX for a value from within a trace that has ended.

    JAX itself finds it when all is traced, and then names no cause.

    Args:
        value: Tensor.
        others: Sequence of tensors that the present trace began with.

    Raises:
        TypeError: for a value of another trace than theirs.
    """
    # A value without one is a constant.
    trace = getattr(value, "_trace", None)
    if _NAME == "jax" and others and trace is not None:
        if all(trace is not getattr(o, "_trace", None) for o in others):
            raise TypeError(f"{value} is of a trace that has ended.")


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of scalars."""
    operations = native_ops()
    return operations.sum(operations.stack(tensors))


def choose(condition: Any, when_true: Tensor, when_false: Tensor) -> Tensor:
    """`where`, or the choice of a Python boolean."""
    if isinstance(condition, bool):
        return when_true if condition else when_false
    return native_ops().where(condition, when_true, when_false)


def constant(array: np.ndarray) -> Any:
    """An array to be used in every step; on torch it is put on the device once.

    There it is as `noted` has it. Elsewhere the compiled step holds it.
    """
    return noted(ops.convert_to_tensor(array)) if _NAME == "torch" else array


def constant_positions(array: np.ndarray) -> Any:
    """Positions of elements, integers `(n,)`, as `elements` takes them."""
    # `torch.take` has no other; half of that is enough elsewhere.
    return constant(array.astype("int64" if _NAME == "torch" else "int32"))


def elements(tensor: Tensor, positions: Any) -> Tensor:
    """Elements of the flattened tensor, as float32 of shape `(n,)`.

    As `noted` has them.

    Args:
        tensor: Tensor or `keras.Variable` of any shape, a `RowGradient`, or
            a vector as `noted` returned it.
        positions: What `constant_positions` returned for sorted integers
            `(n,)`, all of them valid; `None` for every element.
    """
    if isinstance(tensor, RowGradient):
        return tensor.elements(positions)
    if _NAME == "torch":
        # The operations of Keras first make sure of what is known here.
        tensor = native(tensor)
        if positions is None:
            return noted(_single_precision(_flat(tensor)))
        if isinstance(positions, np.ndarray):
            # NumPy would copy one that is laid out in another order.
            if _is_single_precision(tensor) and tensor.is_contiguous():
                return tensor.numpy().reshape(-1).take(positions)
            positions = native(positions)
        if tensor.device.type in ("cpu", "cuda"):
            return noted(_single_precision(tensor.take(positions)))
        # Slower by a view, but there on every device.
        return _flat(tensor).index_select(0, positions).float()
    spread = keras.distribution.distribution() is not None
    if positions is not None and _NAME == "jax" and spread:
        # Flattened, a tensor that is split over devices is gathered on each.
        index = np.unravel_index(positions, tensor.shape)
        found = ops.convert_to_tensor(tensor).at[index]
        return ops.cast(found.get(mode="promise_in_bounds"), "float32")
    if _NAME == "tensorflow" and _is_large_table(tensor, positions):
        # TensorFlow copies a whole variable that has been updated by rows, each
        # time that it is read: these rows are taken out of it.
        import tensorflow as tf

        row, column = divmod(positions, tensor.shape[1])
        rows = tf.gather(native(tensor), row)
        found = tf.gather(rows, column[:, None], batch_dims=1)
        return ops.cast(found[:, 0], "float32")
    flat = ops.reshape(tensor, (-1,))
    if positions is not None and _NAME == "jax":
        flat = flat.at[positions].get(
            mode="promise_in_bounds", indices_are_sorted=True
        )
    elif positions is not None:
        import tensorflow as tf

        flat = tf.gather(flat, positions)
    return ops.cast(flat, "float32")


def _flat(tensor: Tensor) -> Tensor:
    """The same on torch in one dimension, without a call where it has one."""
    return tensor if tensor.ndim == 1 else tensor.reshape(-1)


def _single_precision(tensor: Tensor) -> Tensor:
    """The same on torch as float32, without a call where it is."""
    return tensor if _is_single_precision(tensor) else tensor.float()


def _is_single_precision(tensor: Tensor) -> bool:
    return bool(tensor.dtype == torch_ops.torch.float32)


def _is_large_table(tensor: Any, positions: Any) -> bool:
    """Whether it is a large variable of whose rows few are asked for."""
    if positions is None or not isinstance(tensor, keras.Variable):
        return False
    size = math.prod(tensor.shape)
    if len(tensor.shape) != 2 or size < MIN_SIZE:
        return False
    return bool(4 * len(positions) * tensor.shape[1] <= size)


def whole(vector: Tensor) -> Tensor:
    """The vector, in memory as one, whatever parts it was made of."""
    if _NAME == "jax":
        import jax

        # Else XLA hands the parts on, one by one, to all that read the vector.
        return jax.lax.optimization_barrier(vector)
    return vector


def computed_after(value: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """The scalar, in an order that XLA sees: after the vectors.

    XLA updates weights in place where it can prove that nobody will read the
    old ones, and copies them elsewhere. What the update needs must then depend
    on what was read, as it does here by a condition that never holds.
    """
    if _NAME == "torch":
        return value
    read = sum(vector[0] for vector in vectors)
    return ops.where(read > float("inf"), 0.0, value)


def sum_of_products(left: Tensor | RowGradient, right: Tensor) -> Tensor:
    """Inner product of two tensors of one shape, scalar float32.

    As `noted` has it. The left one may be a `RowGradient`.
    """
    if isinstance(left, RowGradient):
        left, right = left.sums, left.of(native(right))
    if _NAME == "torch":
        import torch

        if isinstance(left, np.ndarray):
            return np.dot(left, right)
        left, right = (
            _single_precision(_flat(native(side))) for side in (left, right)
        )
        # Without the product in memory, which is what costs the time here.
        return noted(torch.dot(left, right))
    product = ops.cast(left, "float32") * ops.cast(right, "float32")
    if _NAME == "tensorflow" and len(product.shape) > 1:
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):
            # TensorFlow's XLA adds up one number after the other on a CPU; as
            # a product with ones the same sum takes a sixth of the time.
            rows = ops.reshape(product, (-1, product.shape[-1]))
            ones = ops.ones((product.shape[-1], 1), dtype="float32")
            return ops.sum(ops.matmul(rows, ones))
    return ops.sum(product)


def sum_of_squares(tensor: Tensor | RowGradient) -> Tensor:
    """Squared norm of a tensor, scalar float32."""
    if isinstance(tensor, RowGradient):
        tensor = tensor.sums
    if _NAME == "jax":
        import jax

        # Else XLA sees that Adam needs the gradient's square as well, and
        # writes it to memory for both instead of fusing it into each.
        tensor = jax.lax.optimization_barrier(tensor)
    return sum_of_products(tensor, tensor)


def at_hand(tensor: Tensor) -> bool:
    """Whether it is a native tensor that the host can look at at once."""
    if _NAME != "torch" or not isinstance(tensor, torch_ops.Tensor):
        return False
    return tensor.device.type == "cpu"


def masked(gradients: Sequence[Tensor | None], keep: Tensor) -> list[Any]:
    """The gradients where `keep` is true, else zeros, sparse ones as they are.

    Args:
        gradients: Sequence of tensors, `tf.IndexedSlices` or `None`.
        keep: Scalar boolean tensor, or what `noted` returned for one.
    """
    # A look at the value saves a pass over the gradients.
    if isinstance(keep, np.bool_) and keep:
        return list(gradients)
    keep = native(keep)
    return [
        None if gradient is None else _masked(gradient, keep)
        for gradient in gradients
    ]


def _masked(gradient: Tensor, keep: Tensor) -> Tensor:
    if _NAME == "tensorflow":
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            values = tf.where(keep, gradient.values, 0)
            return tf.IndexedSlices(
                values, gradient.indices, gradient.dense_shape
            )
    return ops.where(keep, gradient, ops.zeros((), dtype=gradient.dtype))


def across_replicas(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sum over the replicas of a `tf.distribute.Strategy`, if there are any."""
    if _NAME != "tensorflow" or _replicas() == 1:
        return list(tensors)
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    present = [tensor for tensor in tensors if tensor is not None]
    reduced = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(reduced) for tensor in tensors]


def _replicas() -> int:
    """How many replicas of a `tf.distribute.Strategy` take this step."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else int(replica.num_replicas_in_sync)


def strategy_scope(model: keras.Model) -> contextlib.AbstractContextManager:
    """Where variables of the model's `tf.distribute.Strategy` are made."""
    if _NAME == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


@contextlib.contextmanager
def measuring(after: Sequence[Tensor] = ()) -> Iterator[None]:
    """Around tensor work that must be neither differentiated nor reordered.

    Args:
        after: Tensors that must be computed first. Without this, TensorFlow may
            read a weight after it was updated, or copy it to keep the old
            value alive. Defaults to `()`.
    """
    if _NAME == "torch":
        import torch

        # On the host what is not finite is no mistake either.
        with torch.no_grad(), np.errstate(all="ignore"):
            yield
    elif _NAME == "tensorflow":
        import tensorflow as tf

        with tf.control_dependencies(list(after)):
            yield
    else:
        yield


def cond(
    predicate: Tensor, when_true: Callable[[], Any], when_false: Callable
) -> Any:
    """`ops.cond`, or a Python branch where the host knows the predicate."""
    if _NAME == "jax":
        import jax

        # Outside jit, `lax.cond` would compile both branches at every call.
        if not isinstance(predicate, (bool, jax.core.Tracer)):
            predicate = bool(predicate)
    if isinstance(predicate, bool):
        return when_true() if predicate else when_false()
    return ops.cond(predicate, when_true, when_false)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """On torch, a function that torch.compile leaves alone.

    The bookkeeping is hundreds of scalar operations, once a step: compiling
    them takes a minute and gains nothing.
    """
    if _NAME != "torch":
        return function
    import torch

    return torch.compiler.disable(function)


def untraced(step: Any) -> Callable[..., Any]:
    """The method itself, where it was given a graph of its own.

    What is measured within a `tf.function` or a `jax.jit` cannot be read
    outside it; the train function is compiled as a whole in any case.

    Args:
        step: Method, such as a model's `train_step`.
    """
    if _NAME == "tensorflow":
        return getattr(step, "python_function", step)
    if _NAME == "jax":
        import jax

        compiled = type(jax.jit(lambda: None))
        if isinstance(getattr(step, "__func__", None), compiled):
            return types.MethodType(step.__wrapped__, step.__self__)
        return step.__wrapped__ if isinstance(step, compiled) else step
    return step


def eager_value(variable: Tensor) -> Any:
    """A variable's value as NumPy, even while TensorFlow traces."""
    if _NAME == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            return keras.ops.convert_to_numpy(variable)
    return keras.ops.convert_to_numpy(variable)


def is_lost(variable: keras.Variable) -> bool:
    """Whether a step that failed on JAX has taken its value along.

    Keras takes the values off the variables while an epoch lasts, and the
    compiled step is given their memory.
    """
    if _NAME != "jax":
        return False
    value = variable._value
    return value is None or value.is_deleted()


def mutable_parts(data: Any) -> list[Tensor]:
    """The tensors of a batch that can be changed in place: PyTorch's."""
    if _NAME != "torch":
        return []
    import torch

    leaves = keras.tree.flatten(data)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def random_state() -> Any:
    """State of the generators that are drawn from without a seed.

    Keras's own, and on torch its. On JAX there is nothing of the kind: Keras
    refuses such draws within a compiled step.
    """
    if _NAME == "jax":
        return None
    seed = _shared_seed()
    state = [None if seed is None else ops.copy(seed)]
    return state + [read_state() for read_state, _ in _torch_generators()]


def set_random_state(state: Any) -> None:
    """Put back what `random_state` returned."""
    if state is None:
        return
    value, *states = state
    seed = _shared_seed()
    if seed is not None and value is not None:
        seed.assign(value)
    for (_, write_state), value in zip(
        _torch_generators(), states, strict=True
    ):
        write_state(value)


def _torch_generators() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How the state of each generator of PyTorch is read, and put back."""
    if _NAME != "torch":
        return []
    import torch

    found = [(torch.get_rng_state, torch.set_rng_state)]
    for kind in (torch.cuda, torch.xpu):
        found += [
            (
                functools.partial(kind.get_rng_state, device),
                functools.partial(kind.set_rng_state, device=device),
            )
            for device in range(kind.device_count())
        ]
    if torch.backends.mps.is_available():
        found.append((torch.mps.get_rng_state, torch.mps.set_rng_state))
    return found


def _shared_seed() -> keras.Variable | None:
    """What `keras.random` draws by where it is given no seed, if it has yet."""
    # Keras has no public name for it. A draw would show it to a
    # `StatelessScope`, but would also make it where there is none yet.
    from keras.src.backend.common import global_state  # noqa: TID251

    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else generator.state


def buffers(model: keras.Model) -> list[Tensor]:
    """What PyTorch's own modules in a model keep beside their weights."""
    if _NAME != "torch":
        return []
    found = [b for layer in model._flatten_layers() for b in layer.buffers()]
    return list({id(buffer): buffer for buffer in found}.values())


def overwrite(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Put values into tensors of PyTorch."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def copy_value(value: Tensor) -> Tensor:
    """A copy of a native tensor that a later in-place update leaves alone."""
    if _NAME == "torch":
        return value.detach().clone()
    if _NAME == "jax":
        import jax.numpy as jnp

        return jnp.copy(value)
    import tensorflow as tf

    return tf.identity(tf.raw_ops.DeepCopy(x=value))


def end_of_data() -> tuple[type[BaseException], ...]:
    """Exceptions by which a train function says that its data are used up."""
    if _NAME == "tensorflow":
        import tensorflow as tf

        return (StopIteration, tf.errors.OutOfRangeError)
    return (StopIteration,)
