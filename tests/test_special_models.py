"""Models, losses and callbacks that are not what one thinks of first."""

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from tests import fit_checks

BACKEND = keras.backend.backend()
FIT = {"batch_size": 16, "shuffle": False, "verbose": 0}


def classes(num_batches=60):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16 * num_batches, 6)).astype("float32")
    return x, (x[:, 0] > 0.0).astype("int32")


def compiled(model, optimizer=None, loss=None):
    model.compile(
        optimizer or keras.optimizers.Adam(1e-2),
        loss or fit_checks.cross_entropy(),
        **fit_checks.QUICK,
    )
    return model


def dense_net(outputs=2):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="relu")]
    return keras.Sequential(
        [keras.Input((6,)), *layers, keras.layers.Dense(outputs)]
    )


def hands_off():
    """Measures, and leaves the user's rate alone."""
    keras.utils.set_random_seed(0)
    controller = Controller()
    assert not np.any(controller.get_weights()[-2])
    return MetaLR(controller, safe_start=False)


# -- Steps that say nothing. ------------------------------------------------


@pytest.mark.parametrize("where", [0, 20])
def test_batches_without_a_gradient_are_no_reason_for_longer_steps(where):
    x, y = classes()
    weights = np.ones(len(x), "float32")
    weights[16 * where : 16 * (where + 5)] = 0.0
    model, metalr = compiled(dense_net()), MetaLR()
    arguments = {**FIT, "sample_weight": weights, "callbacks": [metalr]}
    model.fit(x, y, **arguments)
    assert metalr.trace["learning_rate"].max() < 0.3
    assert not np.any(metalr.trace["event"].astype(int) & 2)
    assert model.evaluate(x, y, verbose=0) < 0.3


def test_a_loss_that_has_come_to_0_stays_there():
    x, _ = classes(4)
    x = np.tile(3.0 * x, (20, 1))
    y = np.where(x[:, :1] > 0.0, 1.0, -1.0).astype("float32")
    model = compiled(
        dense_net(1), loss=lambda y, p: keras.ops.relu(0.2 - y * p)
    )
    losses = model.fit(x, y, epochs=3, callbacks=[MetaLR()], **FIT).history
    assert losses["loss"][-1] < 1e-3


# -- State beside the weights. ----------------------------------------------


def assert_kept(train, x):
    """State is what it is without MetaLR, and knows nothing of a bad batch."""
    plain = train([], x)
    assert fit_checks.largest_difference(train([hands_off()], x), plain) < 1e-6
    x[20] = np.nan
    with pytest.warns(UserWarning, match=r"skipped 1 step"):
        values = train([MetaLR()], x)
    assert all(np.all(np.isfinite(value)) for value in values)
    return plain, values


@pytest.mark.skipif(
    BACKEND == "torch", reason="Keras itself cannot train these on PyTorch."
)
@pytest.mark.filterwarnings("ignore:MetaLR cannot run this model's forward")
def test_a_stateful_recurrent_net_is_carried_on_as_without():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(96, 5, 6)).astype("float32")
    y = generator.integers(0, 2, 96)

    def train(callbacks, x):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(batch_shape=(16, 5, 6))
        layer = keras.layers.LSTM(4, stateful=True)
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        compiled(model).fit(x, y, callbacks=callbacks, **FIT)
        states = [keras.ops.convert_to_numpy(s) for s in layer.states]
        return [*model.get_weights(), *states]

    assert_kept(train, x)


@pytest.mark.skipif(BACKEND != "torch", reason="The layer is PyTorch's.")
def test_buffers_of_a_module_of_pytorch_are_kept_as_without():
    import torch

    x, y = classes(6)

    def train(callbacks, x):
        keras.utils.set_random_seed(0)
        norm = torch.nn.BatchNorm1d(8)
        module = torch.nn.Sequential(
            torch.nn.Linear(6, 8), norm, torch.nn.Linear(8, 2)
        )
        layer = keras.layers.TorchModuleWrapper(module, output_shape=(None, 2))
        model = keras.Sequential([keras.Input((6,)), layer])
        compiled(model).fit(x, y, callbacks=callbacks, **FIT)
        return [buffer.cpu().numpy() for buffer in norm.buffers()]

    plain, values = assert_kept(train, x)
    assert values[-1] == plain[-1] - 1


def test_trust_is_that_of_the_function_that_was_differentiated():
    """A layer that moves what it normalizes by with every pass."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.SpectralNormalization(keras.layers.Dense(width))
        for width in (32, 32, 2)
    ]
    model = keras.Sequential([keras.Input((6,)), *layers])
    x, y = classes(10)
    metalr = hands_off()
    compiled(model, keras.optimizers.SGD(1e-3))
    model.fit(x, y, callbacks=[metalr], **FIT)
    ratios = metalr.trace["trust_ratio"]
    np.testing.assert_allclose(np.nanmedian(ratios), 1.0, atol=0.05)


class Inheriting(keras.Model):
    """Leaves it to Keras to tell its layers that they are being trained."""

    def __init__(self, layer):
        super().__init__()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.layer = layer
        self.head = keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.head(self.layer(self.hidden(x)))


class Unused(keras.Model):
    """Holds layers that it never calls, and that are never built."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8)
        self.flatten = keras.layers.Flatten()
        self.other_head = keras.layers.Dense(4)
        self.head = keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden(x))


# Keras says so of every model of this kind.
@pytest.mark.filterwarnings("ignore:`build.*unbuilt state:UserWarning")
def test_layers_that_are_never_called_do_no_harm():
    x, y = classes(6)

    def train(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(Unused())
        model.fit(x, y, callbacks=list(callbacks), **FIT)
        return model

    metalr = hands_off()
    plain, model = train(), train(metalr)
    assert np.isfinite(metalr.trace["trust_ratio"]).all()
    for expected, value in zip(
        plain.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(value, expected, atol=1e-6)


class Siamese(keras.Model):
    """Calls a layer twice, which adds a loss each time."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activity_regularizer="l2")
        self.head = keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden(x) - self.hidden(-x))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda: Inheriting(keras.layers.Dropout(0.5)), id="dropout"
        ),
        pytest.param(
            lambda: Inheriting(keras.layers.BatchNormalization()),
            id="batch normalization",
        ),
        pytest.param(Siamese, id="called twice"),
    ],
)
def test_the_second_pass_is_like_the_first_in_a_model_of_ones_own(build):
    keras.utils.set_random_seed(1)
    x, y = classes(10)
    metalr = hands_off()
    model = compiled(build(), keras.optimizers.SGD(1e-3))
    model.fit(x, y, callbacks=[metalr], **FIT)
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.05)


class Noise(keras.layers.Layer):
    """Draws without a seed, as the sampling of many an autoencoder does."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


class Consistent(keras.Sequential):
    """Its loss runs the model again, with another mask."""

    def compute_loss(self, x=None, y=None, y_pred=None, *rest, **more):
        loss = super().compute_loss(x, y, y_pred, *rest, **more)
        again = self(x, training=True)
        return loss + keras.ops.mean(keras.ops.square(again - y_pred))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        pytest.param(
            keras.Sequential,
            Noise,
            id="without a seed",
            marks=pytest.mark.skipif(
                BACKEND == "jax", reason="Keras itself refuses that on JAX."
            ),
        ),
        pytest.param(
            Consistent, lambda: keras.layers.Dropout(0.5), id="drawn twice"
        ),
    ],
)
def test_what_is_drawn_is_drawn_again_alike(kind, layer):
    metalr = hands_off()
    # There is a generator for all that have no seed from the first draw on.
    keras.random.normal((1,))
    dense = keras.layers.Dense
    model = kind([keras.Input((6,)), dense(8), layer(), dense(2)])
    x, y = classes(10)
    compiled(model, keras.optimizers.SGD(1e-3))
    model.fit(x, y, callbacks=[metalr], **FIT)
    # One draw in the place of another gives ratios of 2 and -2.
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.02)


class Codebook(keras.layers.Layer):
    """Means that follow the inputs, more of them than a small net's weights."""

    def build(self, shape):
        size = (shape[-1], 12_000)
        self.means = self.add_weight(shape=size, trainable=False)

    def call(self, x, training=False):
        if training:
            seen = keras.ops.mean(x, axis=0)[:, None]
            self.means.assign(0.9 * self.means + 0.1 * seen)
        return x + self.means[:, 0]


def test_large_statistics_are_kept_as_without():
    x, y = classes(6)

    def train(callbacks, x):
        keras.utils.set_random_seed(0)
        layers = [Codebook(), keras.layers.Dense(2)]
        model = compiled(keras.Sequential([keras.Input((6,)), *layers]))
        model.fit(x, y, callbacks=callbacks, **FIT)
        return model.get_weights()

    assert_kept(train, x)


def test_a_part_of_the_weights_and_its_optimizer():
    """Slots for the last layer alone, and a step that updates it alone."""
    x, y = classes(6)

    class Head(keras.Sequential):
        if BACKEND == "jax":

            def train_step(self, state, data):
                import jax

                weights, others, slots, metrics = state
                x, y = data

                def loss(head):
                    y_pred, _ = self.stateless_call(
                        [*weights[:2], *head], others, x, training=True
                    )
                    return self.compute_loss(x=x, y=y, y_pred=y_pred)

                value, grads = jax.value_and_grad(loss)(weights[2:])
                head, slots = self.optimizer.stateless_apply(
                    slots, grads, weights[2:]
                )
                state = [*weights[:2], *head], others, slots, metrics
                return {"loss": value}, state

        elif BACKEND == "torch":

            def train_step(self, data):
                x, y = data
                loss = self.compute_loss(x=x, y=y, y_pred=self(x))
                self.zero_grad()
                loss.backward()
                head = self.trainable_variables[2:]
                self.optimizer.apply([v.value.grad for v in head], head)
                return {"loss": loss}

        else:

            def train_step(self, data):
                import tensorflow as tf

                x, y = data
                with tf.GradientTape() as tape:
                    loss = self.compute_loss(x=x, y=y, y_pred=self(x))
                head = self.trainable_variables[2:]
                values = [v.value for v in head]
                self.optimizer.apply(tape.gradient(loss, values), head)
                return {"loss": loss}

    def train(*callbacks):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense
        model = Head([keras.Input((6,)), dense(8), dense(2)])
        compiled(model, keras.optimizers.SGD(0.01))
        model.optimizer.build(model.layers[-1].trainable_variables)
        model.fit(x, y, callbacks=callbacks, **FIT)
        return model.get_weights()

    metalr = hands_off()
    assert fit_checks.largest_difference(train(metalr), train()) < 1e-6
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.05)


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="Keras itself refuses that elsewhere."
)
def test_a_loss_for_each_example_counts_as_their_sum():
    x, y = classes(6)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=None
    )
    model = compiled(dense_net(), keras.optimizers.SGD(1e-4), loss)
    metalr = hands_off()
    model.fit(x, y, callbacks=[metalr], **FIT)
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.02)
    assert metalr.trace["loss"][0] == pytest.approx(16 * np.log(2.0), rel=0.5)


# -- Types. -----------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_controller_of_ones_own_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        layers = [keras.Input((22,)), keras.layers.Dense(1)]
        controller = keras.Sequential(layers)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = classes(4)
    metalr = MetaLR(controller)
    history = compiled(dense_net()).fit(x, y, callbacks=[metalr], **FIT)
    assert np.isfinite(history.history["loss"]).all()
    assert len(metalr.trace) == 4


def test_scales_of_float8_are_no_weights():
    x, y = classes()

    def train(callbacks, x):
        model = dense_net()
        for layer in model.layers:
            layer.quantize("float8")
        compiled(model).fit(x, y, callbacks=callbacks, **FIT)
        return model

    plain, same = train([], x), train([hands_off()], x)
    for value, expected in zip(
        same.get_weights(), plain.get_weights(), strict=True
    ):
        np.testing.assert_allclose(value, expected, atol=1e-5)
    metalr = MetaLR()
    assert train([metalr], x).evaluate(x, y, verbose=0) < 0.4
    assert np.nanmedian(metalr.trace["trust_ratio"]) > 0.5
    broken = x.copy()
    broken[500] = np.nan
    with pytest.warns(UserWarning, match=r"skipped 1 step"):
        model = train([MetaLR()], broken)
    assert model.evaluate(x, y, verbose=0) < 0.4


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("floatx", ["float64", "bfloat16"])
def test_any_default_type(floatx):
    x, y = classes()
    before = keras.config.floatx()
    policy = keras.config.dtype_policy()
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        model, metalr = compiled(dense_net()), MetaLR()
        model.fit(x, y, callbacks=[metalr], **FIT)
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)
    assert len(metalr.trace) == 60
    assert metalr.trace["loss"][-10:].mean() < metalr.trace["loss"][:3].mean()


# -- What a user says and does. ---------------------------------------------


def test_what_a_callback_does_to_the_optimizer_is_done_to_the_users_own():
    seen = {}

    class Change(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            optimizer = self.model.optimizer
            for name in ("name", "weight_decay", "clipnorm", "use_ema"):
                seen[name] = getattr(optimizer, name)
            optimizer.weight_decay = 0.0
            optimizer.beta_1 = 0.5
            assert optimizer.beta_1 == 0.5

    x, y = classes(6)

    def train(decay, momentum, callbacks):
        optimizer = keras.optimizers.AdamW(
            1e-2, decay, momentum, clipnorm=3.0, name="mine"
        )
        model = compiled(dense_net(), optimizer)
        model.fit(x, y, callbacks=callbacks, **FIT)
        return model.get_weights()

    expected = train(0.0, 0.5, [])
    for value, other in zip(
        train(10.0, 0.9, [hands_off(), Change()]), expected, strict=True
    ):
        np.testing.assert_allclose(value, other, atol=1e-5)
    assert seen == {
        "name": "mine",
        "weight_decay": 10.0,
        "clipnorm": 3.0,
        "use_ema": False,
    }


def test_a_callback_sets_the_weights_of_the_users_optimizer():
    class Forget(keras.callbacks.Callback):
        """Adam begins anew with each epoch."""

        def on_train_begin(self, logs=None):
            inner = getattr(self.model.optimizer, "inner", self.model.optimizer)
            self.fresh = [np.zeros(v.shape) for v in inner.variables]
            self.fresh[1] = np.array(1e-2)

        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.set_weights(self.fresh)

    x, y = classes(6)

    def train(*callbacks):
        model = compiled(dense_net())
        model.optimizer.build(model.trainable_variables)
        model.fit(x, y, epochs=3, callbacks=[*callbacks, Forget()], **FIT)
        assert int(model.optimizer.iterations) == 6
        return model.get_weights()

    assert fit_checks.largest_difference(train(hands_off()), train()) < 1e-6


def _graph_of_its_own(function, **jit_arguments):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import jax

    return jax.jit(function, **jit_arguments)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no such graphs")
@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_train_step_that_is_a_graph_of_its_own(where):
    static = {"static_argnums": 0} if BACKEND == "jax" else {}

    class Decorated(keras.Model):
        train_step = _graph_of_its_own(keras.Model.train_step, **static)

    def made():
        body = dense_net()
        if where == "class":
            return compiled(Decorated(body.inputs, body.outputs))
        model = compiled(body)
        model.train_step = _graph_of_its_own(model.train_step)
        return model

    x, y = classes(6)
    values = []
    for callbacks in ([], [hands_off()]):
        model = made()
        model.fit(x, y, callbacks=callbacks, **FIT)
        values.append(model.get_weights())
    assert fit_checks.largest_difference(*values) < 1e-6
    ratios = callbacks[0].trace["trust_ratio"]
    np.testing.assert_allclose(ratios, 1.0, atol=0.2)


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="Keras calls it on TensorFlow alone."
)
def test_a_users_own_apply_gradients_is_called():
    import tensorflow as tf

    class Centred(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars):
            return super().apply_gradients(
                (g - tf.reduce_mean(g), v) for g, v in grads_and_vars
            )

    x, y = classes(6)

    def train(optimizer, *callbacks):
        model = compiled(dense_net(), optimizer)
        model.fit(x, y, callbacks=callbacks, **FIT)
        return model.get_weights()

    expected = train(Centred(0.1))
    found = train(Centred(0.1), hands_off())
    assert fit_checks.largest_difference(found, expected) < 1e-6
    other = train(keras.optimizers.SGD(0.1))
    assert fit_checks.largest_difference(other, expected) > 1e-3


@pytest.mark.skipif(
    BACKEND == "jax", reason="On JAX an update takes no arguments of one's own."
)
def test_what_a_train_step_tells_the_optimizer_is_passed_on():
    class Told(keras.optimizers.SGD):
        told = 0

        def apply(self, grads, trainable_variables=None, loss=None):
            self.told += loss is not None
            super().apply(grads, trainable_variables)

    class Telling(keras.Sequential):
        def train_step(self, data):
            x, y = data
            weights = self.trainable_variables
            if BACKEND == "torch":
                loss = self.compute_loss(x=x, y=y, y_pred=self(x))
                self.zero_grad()
                loss.backward()
                grads = [v.value.grad for v in weights]
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = self.compute_loss(x=x, y=y, y_pred=self(x))
                grads = tape.gradient(loss, [v.value for v in weights])
            self.optimizer.apply(grads, weights, loss=loss)
            return {"loss": loss}

    x, y = classes(6)
    model = Telling([keras.Input((6,)), keras.layers.Dense(2)])
    compiled(model, Told(0.1)).fit(x, y, callbacks=[hands_off()], **FIT)
    assert model.optimizer.told > 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_layer_in_half_precision_makes_small_promises_unreadable(policy):
    x, y = classes(6)
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(16, activation="relu", dtype=policy)
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(2)])
    compiled(model, keras.optimizers.SGD(1e-3))
    assert model.compute_dtype == "float32"
    metalr = hands_off()
    model.fit(x, y, callbacks=[metalr], **FIT)
    # Of a loss near 1, such steps promise some thousandths at the most.
    measured = np.isfinite(metalr.trace["trust_ratio"])
    assert measured.all() if policy == "float32" else not measured.any()


@pytest.mark.parametrize("pretrained", [False, True, None])
def test_a_user_can_say_whether_weights_are_pretrained(pretrained):
    x, y = classes(6)
    model = dense_net()
    # As one does for classes that are not equally frequent.
    model.layers[-1].bias.assign([0.3, -0.3])
    metalr = MetaLR(pretrained=pretrained)
    compiled(model).fit(x, y, callbacks=[metalr], **FIT)
    expected = 1.0 if pretrained is None else float(pretrained)
    np.testing.assert_array_equal(metalr.trace["pretrained"], expected)
    config = MetaLR.from_config(metalr.get_config())
    assert config.pretrained is pretrained


class Load(keras.callbacks.Callback):
    """Loads trained weights where `fit` begins."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        self.model.load_weights(self.path)


@pytest.mark.parametrize("first", [False, True])
def test_weights_that_a_callback_loads_are_seen(first, tmp_path):
    path = str(tmp_path / "trained.weights.h5")
    x, y = classes(6)
    trained = compiled(dense_net())
    trained.fit(x, y, **FIT)
    trained.save_weights(path)
    metalr = MetaLR()
    callbacks = [Load(path), metalr] if first else [metalr, Load(path)]
    compiled(dense_net()).fit(x, y, callbacks=callbacks, **FIT)
    np.testing.assert_array_equal(metalr.trace["pretrained"], 1.0)


class Curious(keras.Sequential):
    """Looks at another loss once the weights have moved."""

    def train_step(self, *arguments):
        result = super().train_step(*arguments)
        _, y = arguments[-1]
        guess = keras.ops.stack([y * 9.0, y * -9.0], axis=-1)
        self.compute_loss(y=1.0 - y, y_pred=guess)
        return result


def test_a_loss_that_is_computed_after_the_update_is_not_measured():
    x, y = classes(6)
    rows = []
    for kind in (keras.Sequential, Curious):
        metalr = MetaLR()
        model = compiled(kind(dense_net().layers))
        model.fit(x, y.astype("float32"), callbacks=[metalr], **FIT)
        rows.append(metalr.trace["trust_ratio"])
    np.testing.assert_allclose(*rows, atol=1e-4)
    assert np.all(rows[0] > 0.0)


CONSTRAINTS = [
    keras.constraints.MaxNorm(0.3),
    keras.constraints.NonNeg(),
    keras.constraints.UnitNorm(),
]


@pytest.mark.parametrize(
    "constraint", CONSTRAINTS, ids=lambda c: type(c).__name__
)
def test_a_constraint_is_no_step(constraint):
    """The first update brings new weights within it, however short it is."""
    x, y = classes(6)
    model = dense_net()
    for layer in model.layers:
        layer.kernel_constraint = layer.kernel.constraint = constraint
    metalr = MetaLR()
    compiled(model).fit(x, y, callbacks=[metalr], **FIT)
    rates = metalr.trace["learning_rate"]
    assert rates[1] > 0.5 * rates[0] and rates[-1] > rates[0]


@pytest.mark.parametrize("feedback", [False, True])
def test_feedback_is_learned_within_fit(feedback):
    """A controller that says nothing has only what feedback adds."""
    x, y = classes(6)
    metalr = MetaLR(Controller(), safe_start=False, feedback=feedback)
    compiled(dense_net()).fit(x, y, callbacks=[metalr], **FIT)
    assert np.any(metalr.trace["output"]) == feedback


@pytest.mark.skipif(
    BACKEND != "torch", reason="Elsewhere a compiled step goes on as it was"
)
def test_a_layer_that_is_frozen_in_mid_run():
    x, y = classes(60)
    model = compiled(dense_net(), keras.optimizers.SGD(0.05))

    class Freeze(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            # Copies are made before, the run is ruined after it.
            self.model.layers[0].trainable = batch < 33
            if batch == 35:
                head = self.model.layers[1]
                head.set_weights([1e4 * value for value in head.get_weights()])

    metalr = hands_off()
    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        model.fit(x, y, callbacks=[metalr, Freeze()], **FIT)
    assert np.isfinite(metalr.trace["trust_ratio"][-10:]).all()
    assert model.evaluate(x, y, verbose=0) < 1.0


def test_a_rollback_leaves_alone_what_a_callback_wrote_to_a_frozen_layer():
    """A target network, say, which follows by the user's own rule."""
    x, y = classes(60)
    model = dense_net()
    model.layers[0].trainable = False
    compiled(model, keras.optimizers.SGD(0.05))
    kernel, bias = model.layers[0].get_weights()

    class Follow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            body, head = self.model.layers
            # Copies are made before, the run is ruined after it.
            if batch == 33:
                body.set_weights([1.01 * kernel, bias])
            if batch == 35:
                head.set_weights([1e4 * value for value in head.get_weights()])

    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        model.fit(x, y, callbacks=[hands_off(), Follow()], **FIT)
    found = model.layers[0].get_weights()[0]
    np.testing.assert_allclose(found, 1.01 * kernel, rtol=1e-6)


def test_two_of_them_in_one_fit_are_refused():
    x, y = classes(2)
    model = compiled(dense_net())
    before = model.get_weights()
    with pytest.raises(ValueError, match="takes one MetaLR"):
        model.fit(x, y, callbacks=[MetaLR(), MetaLR()], **FIT)
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    # One after the other is another thing.
    for _ in range(2):
        model.fit(x, y, callbacks=[MetaLR()], **FIT)


class SecondLook(keras.Model):
    """Every other time, its loss is larger: when it is run again."""

    def __init__(self, more):
        super().__init__()
        self.net = dense_net()
        self.more = more
        self.calls = 0

    def call(self, x):
        return self.net(x)

    def compute_loss(self, *args, **kwargs):
        self.calls += 1
        loss = super().compute_loss(*args, **kwargs)
        return loss + (self.more if self.calls % 2 == 0 else 0.0)


@pytest.mark.parametrize("more", [0.0, 1.0])
def test_a_loss_that_is_not_what_was_differentiated_is_noticed(more, recwarn):
    x, y = classes(6)
    model = compiled(SecondLook(more))
    model.build((None, 6))
    model.fit(x, y, callbacks=[MetaLR()], **FIT)
    told = [w for w in recwarn if "had promised" in str(w.message)]
    assert len(told) == (more > 0.0)


# -- Optimizers. ------------------------------------------------------------


def test_scaled_gradients_are_told_as_what_they_are():
    x, y = classes(6)

    def trace_of(optimizer):
        metalr = hands_off()
        compiled(dense_net(), optimizer).fit(x, y, callbacks=[metalr], **FIT)
        return metalr.trace

    kinds = keras.optimizers
    plain = trace_of(kinds.SGD(1e-3))
    for optimizer in (
        kinds.SGD(1e-3, loss_scale_factor=8.0),
        kinds.LossScaleOptimizer(kinds.SGD(1e-3), initial_scale=8.0),
    ):
        trace = trace_of(optimizer)
        for name in ("grad_norm", "trust_ratio"):
            np.testing.assert_allclose(trace[name], plain[name], rtol=0.01)


@pytest.mark.parametrize("scaled", [False, True])
def test_decisions_fall_on_whole_updates(scaled):
    """Also where the optimizer had gathered batches before the run began."""
    x, y = classes(19)
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=3)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=8.0
        )
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    compiled(model, optimizer)
    size = FIT["batch_size"]
    model.fit(x[: 7 * size], y[: 7 * size], **FIT)
    metalr = hands_off()
    model.fit(x[7 * size :], y[7 * size :], callbacks=[metalr], **FIT)
    # 12 batches and one gathered before: updates at the batches 2, 5, 8, 11.
    np.testing.assert_array_equal(metalr.trace["step"], [2, 5, 8, 11])
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.1)


@pytest.mark.skipif(BACKEND != "torch", reason="Elsewhere nothing can be.")
def test_a_batch_that_is_changed_in_place():
    class Centred(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            x -= 3.0
            x *= 0.5
            return self.dense(x)

    x, y = classes(6)
    model = compiled(Centred())
    metalr = hands_off()
    model.fit(3.0 + x, y, callbacks=[metalr], **FIT)
    np.testing.assert_allclose(metalr.trace["trust_ratio"], 1.0, atol=0.2)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no such graphs")
def test_a_loss_within_a_graph_of_its_own_is_an_error_that_says_so():
    class OnTensorFlow(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            @tf.function
            def gradients(x, y):
                with tf.GradientTape() as tape:
                    loss = self.compute_loss(x, y, self(x, training=True))
                return tape.gradient(loss, self.trainable_variables)

            found = gradients(*data)
            self.optimizer.apply(found, self.trainable_variables)
            return {}

    class OnJax(keras.Model):
        def train_step(self, state, data):
            import jax

            weights, others, slots, metrics = state
            x, y = data

            def loss(weights):
                outputs, _ = self.stateless_call(weights, others, x)
                return self.compute_loss(x, y, outputs)

            found = jax.grad(jax.checkpoint(loss))(weights)
            weights, slots = self.optimizer.stateless_apply(
                slots, found, weights
            )
            return {}, (weights, others, slots, metrics)

    body = dense_net()
    kind = OnJax if BACKEND == "jax" else OnTensorFlow
    model = compiled(kind(body.inputs, body.outputs))
    optimizer = model.optimizer
    x, y = classes(6)
    with pytest.raises(ValueError, match="has a graph of its own"):
        model.fit(x, y, callbacks=[MetaLR()], **FIT)
    fit_checks.assert_clean(model, optimizer, 1e-2)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's checkpoints")
def test_a_checkpoint_of_tensorflow_is_that_of_the_users_optimizer(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "checkpoint")

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            tf.train.Checkpoint(model=self.model).write(path)

    x, y = classes(6)
    model = compiled(dense_net())
    model.fit(x, y, callbacks=[hands_off(), Save()], **FIT)
    again = compiled(dense_net())
    again.optimizer.build(again.trainable_variables)
    status = tf.train.Checkpoint(model=again).read(path)
    status.assert_existing_objects_matched()
    found, expected = (m.optimizer.variables for m in (again, model))
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value.numpy(), other.numpy())


def test_an_optimizer_that_holds_another_is_refused():
    class Around(keras.optimizers.SGD):
        def __init__(self, inner):
            super().__init__(0.1)
            self.inner = inner

    x, y = classes(6)
    model = compiled(dense_net(), Around(keras.optimizers.SGD(0.01)))
    with pytest.raises(ValueError, match=r"\(Around\) holds another.*`inner`"):
        model.fit(x, y, callbacks=[MetaLR()], **FIT)
