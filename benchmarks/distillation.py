"""Can one pass replace the steps of a recurrent prior? A student learns to draw its codes.

    python benchmarks/distillation.py examples/calovq-ds2 --reference TEST.hdf5 --steps 1000

A recurrent prior (the teacher) turns a uniform number per place into a code, one place after the
other. Its codes are a function of these numbers, so the distribution of a code follows from the
numbers before it. The student, a causal transformer over the numbers, learns this in one pass:
cross-entropy of the teacher's codes. With the teacher's nats per code it draws the same codes.
Codes are in the order of the first principal component of their vectors, so that a number that is
a little larger gives a similar code. ``--blind`` hides the numbers, which leaves codes that are
independent of each other given the layer energies. Where a step of the prior draws several codes,
so does the student: all this is then about their combinations.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rows
import tqdm
import tyro
from rows import Row

import calojax
from calojax import rng
from calojax.evaluation.samples import Selection
from calojax.io import open_showers
from calojax.models.calovq.model import CaloVQ
from calojax.nn.priors import categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import Block

SCORES = ("fpd", "precision", "recall", "density", "separation_ec_r")
METRICS = ("histograms", "fpd", "prdc")
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      run: folder of a trained run of Calo-VQ with a recurrent prior, or its name.
      reference: test showers.
      steps: steps of the training, of 64 showers each.
      blocks: blocks of the student.
      width: width of the student, a multiple of 32.
      blind: hide the numbers.
    """

    run: tyro.conf.Positional[str] = "calovq-ds2"
    reference: pathlib.Path | None = None
    steps: int = 1000
    blocks: int = 4
    width: int = 96
    blind: bool = False


class Drawn(NamedTuple):
    """What the teacher draws for a batch of showers: tokens are numbers in the student's order."""

    energies: jax.Array
    noise: Any
    layers: jax.Array
    context: jax.Array
    tokens: jax.Array

    @property
    def u(self) -> jax.Array:
        """The uniform numbers that determine the tokens, [b, t]."""
        return self.noise["prior"]["uniform"]


class Teacher:
    """A trained model, with tokens in the order of the first principal component."""

    def __init__(self, trained: calojax.TrainedModel):
        assert isinstance(trained.model, CaloVQ)
        self.model, self.original = trained.model, trained.variables
        assert isinstance(self.model._prior, Autoregressive)
        self.prior = self.model._prior
        vectors = np.asarray(self.original["state"]["codebook"]["vectors"])
        codes = self.prior.apart(np.arange(self.prior.cell.size)[:, None])
        vectors = vectors[codes].reshape(len(codes), -1)
        centred = vectors - vectors.mean(0)
        self.order = np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0])
        params = self.original["params"]
        prior, tokens = params["prior"], params["prior"]["tokens"]["embedding"]
        # The last row is what precedes the first code.
        embedding = jnp.concatenate([tokens[self.order], tokens[-1:]])
        output = {name: x[..., self.order] for name, x in prior["output"].items()}
        prior = prior | {"output": output, "tokens": {"embedding": embedding}}
        self.variables = self.original | {"params": params | {"prior": prior}}
        self.low, self.high = np.log(trained.progress.energy_range)
        self._draw = jax.jit(self._drawn)

    def draw(self, seed: int, number: int, energies: np.ndarray | None = None) -> Drawn:
        """A batch of showers, of log-uniform energies unless these are given."""
        keys = rng.per_item(rng.root(seed), np.arange(number * _BATCH, (number + 1) * _BATCH))
        if energies is None:
            u = jax.vmap(lambda key: jax.random.uniform(rng.stream(key, "incident")))(keys)
            energies = jnp.exp(self.low + (self.high - self.low) * u)
        return self._draw(keys, energies)

    def _drawn(self, keys: jax.Array, energies: jax.Array) -> Drawn:
        model, variables = self.model, self.variables
        noise = model.noise(keys)
        layers = model.sample_layer_energies(variables, noise, energies)
        context = model._prior_context(variables, energies, layers)
        codes = model.sample_codes(variables, noise, energies, layers)
        return Drawn(energies, noise, layers, context, self.prior.joined(codes))

    def nats(self, drawn: Drawn) -> jax.Array:
        """The teacher's own cross-entropy per code."""
        variables = self.model._prior_variables(self.variables)
        codes = self.prior.apart(drawn.tokens)
        return -self.prior.log_probs(variables, codes, drawn.context).sum() / codes.size

    def showers(self, drawn: Drawn, tokens: jax.Array) -> jax.Array:
        """Showers of tokens, in MeV."""
        codes = self.prior.apart(jnp.asarray(self.order)[tokens])
        return self.model.decode(self.original, drawn.noise, codes, drawn.energies, drawn.layers)


class Student(nn.Module):
    """Logits of all tokens in one pass: numbers u [b, t], context [b, t, c] -> [b, t, k]."""

    size: int
    blocks: int
    width: int
    blind: bool

    @nn.compact
    def __call__(self, u: jax.Array, context: jax.Array) -> jax.Array:
        before = jnp.pad(u, ((0, 0), (1, 0)))[:, :-1, None]
        angles = np.pi * before * 2.0 ** np.arange(8, dtype=np.float32)
        features = jnp.concatenate([before, jnp.sin(angles), jnp.cos(angles)], -1)
        features = jnp.zeros_like(features) if self.blind else features
        places = self.param("places", nn.initializers.normal(0.02), (u.shape[1], self.width))
        x = nn.Dense(self.width)(jnp.concatenate([features, context], -1)) + places[None]
        for _ in range(self.blocks):
            x = Block(self.width, self.width // 32)(x)
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x))


def taught(student: Student, teacher: Teacher, steps: int) -> Any:
    """The parameters of a student after a number of steps."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, min(100, steps), steps + 1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, 0.9, 0.99))

    @jax.jit
    def step(params, state, u, context, tokens):
        def loss(params):
            return -categorical.log_prob(student.apply(params, u, context), tokens).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, value

    first = teacher.draw(1, 0)
    params = jax.jit(student.init)(rng.root(0), first.u, teacher.prior.of_steps(first.context))
    state = optimizer.init(params)
    for number in (bar := tqdm.tqdm(range(steps))):
        drawn = teacher.draw(2, number)
        context = teacher.prior.of_steps(drawn.context)
        params, state, value = step(params, state, drawn.u, context, drawn.tokens)
        if number % 50 == 0:
            bar.set_postfix(nats=float(value) / teacher.prior.together)
    return params


def main(b: Benchmark) -> Iterator[Row]:
    """One row: nats per code, share of equal tokens, and scores of teacher and student."""
    b = b.small(steps=2, blocks=1, width=32)
    teacher = Teacher(calojax.load(b.run))
    student = Student(len(teacher.order), b.blocks, b.width, b.blind)
    params = taught(student, teacher, b.steps)

    @jax.jit
    def compared(drawn):
        logits = student.apply(params, drawn.u, teacher.prior.of_steps(drawn.context))
        own = categorical.choose(drawn.u, logits)
        nats = -categorical.log_prob(logits, drawn.tokens).mean() / teacher.prior.together
        showers = teacher.showers(drawn, drawn.tokens), teacher.showers(drawn, own)
        return nats, teacher.nats(drawn), (drawn.tokens == own).mean(), showers

    reference = open_showers(b.reference) if b.reference else None
    energies = reference.energies if reference else np.exp([teacher.low] * _BATCH)
    energies = np.float32(energies[: len(energies) // _BATCH * _BATCH]).reshape(-1, _BATCH)
    results = [
        jax.tree.map(np.asarray, compared(teacher.draw(3, number, some)))
        for number, some in enumerate(energies)
    ]
    *means, showers = zip(*results, strict=True)
    row: Row = {"benchmark": "distillation", "run": b.run, "blind": b.blind, "steps": b.steps}
    row |= {"blocks": b.blocks, "width": b.width}
    row |= dict(zip(("nats", "nats_teacher", "equal"), np.mean(means, 1).tolist(), strict=True))
    if reference:
        same = Selection(reference, np.arange(energies.size))
        for name, parts in zip(("teacher", "student"), zip(*showers, strict=True), strict=True):
            sample = np.concatenate(parts)
            found = calojax.evaluate(sample, same, metrics=METRICS, slices=()).scores
            row |= {f"{name}_{key}": found[key] for key in SCORES}
    yield row


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
