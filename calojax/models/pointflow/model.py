"""CaloPointFlow: showers as points that a flow draws, given a latent vector of the whole shower.

After the talk on CaloPointFlow II (CaloChallenge workshop, November 2023) and arXiv:2403.15782. The
steps from version I to version II are settings, and so are extensions. Stages are trained in turn:

- ``totals``: a flow of a shower's hit counts and energies (`totals`);
- ``points``: a variational autoencoder of sets. An encoder gives the posterior q(z | X) of a latent
  vector z, one flow the prior p(z), another the points p(x | z), independent of each other given z;
- ``placement``, if angles are learnt: angular bins of hits on their rings (`angular_placement`).

    E_inc --> totals --> hits, energy --+--> prior --> z --+
                                        +-----------------+--> points --> rescaled --> placed

Hits are rescaled to the total energy exactly. Only their excess over the readout threshold is
multiplied, so that none falls below it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from calojax import rng
from calojax.geometry import Detector
from calojax.models.base import (
    Batch,
    Energies,
    Keys,
    Noise,
    Outcome,
    Packing,
    Parts,
    Showers,
    Stage,
    Variables,
    trained,
)
from calojax.models.pointflow import microbatches, points
from calojax.models.pointflow.angular_placement import Placement
from calojax.models.pointflow.config import PointFlowConfig
from calojax.models.pointflow.coordinates import COORDINATES, Coordinates, Counts
from calojax.models.pointflow.dequantisation import DEQUANTISATIONS, HIT_ENERGIES
from calojax.models.pointflow.points import Points
from calojax.models.pointflow.totals import Encoding, EveryLayer, Totals, WholeShower, rescaled
from calojax.models.voxels import energy_condition, layer_sums
from calojax.nn import tiles
from calojax.nn.deepset import Encoder
from calojax.nn.flow import Flow, Owned
from calojax.nn.tiles import Tiling

# Places of a tile (see `calojax.nn.tiles`). On average half a tile of each shower stays empty: 1 or
# 2 % of its points.
_TILE = 16
# The last microbatch is not full. The flow of points has programs for these fractions of it.
_FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)

Latents = Float[Array, "b latents"]


@dataclasses.dataclass(frozen=True)
class PointFlow:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: PointFlowConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        c, parameters = self.config, ("encoder", "latent", "points")
        packing = Packing(c.points.group, c.points.points_per_shower, "--points.points-per-shower")
        stages = (
            Stage("totals", ("totals",), c.totals.schedule),
            Stage("points", parameters, c.points.schedule, packing=packing),
            Stage("placement", ("placement",), c.placement.schedule),
        )
        return stages if self._placement else stages[:2]

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def encoding(self) -> Encoding:
        """The map between totals and real numbers."""
        return (WholeShower if self.coordinates.has_layer else EveryLayer)(self.detector)

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """The map between a hit and real numbers."""
        c = self.config.points
        bins, energies = DEQUANTISATIONS[c.dequantisation], HIT_ENERGIES[c.energy]
        return COORDINATES[c.coordinates](self.detector, bins, energies)

    @functools.cached_property
    def _totals(self) -> Flow:
        c = self.config.totals
        return Flow(self.encoding.features, c.depth, c.bins, c.hidden)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        c = self.config.encoder
        return Encoder(self.config.latent.dimensions, c.point, c.shower)

    @functools.cached_property
    def _latent(self) -> Flow:
        c = self.config.latent
        return Flow(c.dimensions, c.depth, c.bins, c.hidden)

    @functools.cached_property
    def _points(self) -> Flow:
        c = self.config.points
        summary = c.summary if c.deep_sets else None
        return Flow(self.coordinates.features, c.depth, c.bins, c.hidden, summary=summary)

    @functools.cached_property
    def _placement(self) -> Placement | None:
        """The density of angles, if it is learnt."""
        c = self.config.placement
        if c.angles == "uniform":
            return None
        unit = max(self.detector.readout_threshold, 1e-3)
        return Placement(self._grid[2], unit, c.hidden, c.window)

    @property
    def _grid(self) -> tuple[int, int, int]:
        return points.grid_of(self.detector)

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        counts = Counts(self.coordinates)
        batches = []
        for incident, voxels in showers:
            grid = voxels.reshape(len(voxels), *self._grid)
            counts.add(grid)
            # Sums in float64: thousands of hits.
            batches.append(((grid > 0).sum((2, 3)), grid.sum((2, 3), dtype=np.float64), incident))
        hits, energy, incident = (np.concatenate(part) for part in zip(*batches, strict=True))
        return {
            "hits": self.coordinates.fit(counts),
            "totals": self.encoding.fit(hits, energy, incident),
        }

    def init(self, key: PRNGKeyArray, transforms: Variables, batch: Batch) -> Variables:
        """Random networks; flows start as the identity."""
        shower = jnp.zeros((1, self.encoding.context))
        latent = jnp.zeros((1, self.config.latent.dimensions))
        point = jnp.zeros((1, self.coordinates.features))
        tiling = Tiling(jnp.zeros(1, jnp.int32), jnp.ones((1, 1), bool))
        given = jnp.zeros((1, self._given))
        owned = Owned(jnp.concatenate([shower, latent], -1), tiling, given)
        # The condition of the totals is the incident energy alone.
        modules: dict[str, tuple[Any, ...]] = {
            "totals": (self._totals, jnp.zeros((1, self.encoding.features)), jnp.zeros((1, 1))),
            "encoder": (self._encoder, jnp.concatenate([point, given], -1), tiling, 1),
            "latent": (self._latent, latent, shower),
            "points": (self._points, point, owned),
        }
        if self._placement:
            modules["placement"] = (self._placement, jnp.zeros((1, *self._grid)))
        params = {
            name: module.init(rng.stream(key, name), *inputs)["params"]
            for name, (module, *inputs) in modules.items()
        }
        return {"params": params, "state": {}, "transforms": transforms}

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: PRNGKeyArray, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """Loss of a stage; metrics are in nats and have the names of the talk's terms."""
        losses = {
            "totals": self._totals_loss,
            "points": self._points_loss,
            "placement": self._placement_loss,
        }
        loss, metrics = losses[stage](variables, key, batch["energies"], batch["showers"])
        return loss, Outcome({"loss": loss} | metrics, variables["state"])

    def _totals_loss(self, variables, key, energies, showers):
        x = self.encoding.forward(
            rng.stream(key, "totals"), self._totals_of(showers), energies, self._scales(variables)
        )
        condition = energy_condition(energies, self.detector)
        log_prob = trained(self._totals, variables, "totals").log_prob(x, condition)
        return -log_prob.mean(), {}

    def _points_loss(self, variables, key, energies, showers):
        c = self.config.points
        groups = self._in_groups(showers)
        num = len(groups)
        whole = self._totals_of(showers)
        context = self.encoding.describe(whole, energies, self._scales(variables))
        by_group = [self._in_groups(array) for array in (context, whole.hits, whole.energy)]

        def terms(key, showers, context, hits, energy):
            size = c.group * c.points_per_shower
            hit, overflow = points.to_points(showers, self.detector, size)
            noise = jax.random.uniform(rng.stream(key, "within bins"), (size, 3))
            x, given = self._numbers(variables, hit, Totals(hits, energy), noise)
            normal = jax.random.normal(
                rng.stream(key, "posterior"), (c.group, self.config.latent.dimensions)
            )
            # The last tile of each shower may have empty places.
            count = -(-size // _TILE) + c.group
            tiling, number = tiles.lay(points.count(hit.owner, c.group), count, _TILE)
            elbo = self.bound(variables, x[number], given[number], tiling, context, normal)
            return elbo, overflow

        keys = rng.per_item(rng.stream(key, "points"), jnp.arange(num))
        elbo, overflow = jax.vmap(terms)(keys, groups, *by_group)
        # Without the empty showers that complete the last group.
        elbo = [term.reshape(-1)[: len(showers)] for term in elbo]
        hits = whole.hits.sum(-1)
        reconstruction, prior, entropy = elbo
        weights = self._weights(hits)
        loss = -sum((w * t).mean() for w, t in zip(weights, elbo, strict=True))
        return loss, {
            "reconstruction": reconstruction.mean(),
            "prior": prior.mean(),
            "entropy": entropy.mean(),
            "left_out": overflow.sum() / jnp.maximum(hits.sum(), 1),
            "padding": 1.0 - hits.sum() / (num * c.group * c.points_per_shower),
        }

    def bound(
        self,
        variables: Variables,
        x: Float[Array, "p d"],
        given: Float[Array, "p k"],
        tiling: Tiling,
        context: Float[Array, "g c"],
        normal: Float[Array, "g latents"],
    ) -> tuple[Float[Array, " g"], Float[Array, " g"], Float[Array, " g"]]:
        """Terms of the evidence lower bound of g showers in nats.

        These are reconstruction (a mean over points), prior and entropy, of points x (as real
        numbers, with known numbers as of `_describe_points`) in the places of tiles, the
        description of the showers, and standard normal noise of the posterior.
        """
        num, dimensions = normal.shape
        encoder = trained(self._encoder, variables, "encoder")
        mean, log_std = encoder(jnp.concatenate([x, given], -1), tiling, num)
        latent = mean + jnp.exp(log_std) * normal
        prior = trained(self._latent, variables, "latent").log_prob(latent, context)
        owned = Owned(jnp.concatenate([context, latent], -1), tiling, given)
        log_prob = trained(self._points, variables, "points").log_prob(x, owned)
        reconstruction = tiles.mean(log_prob[:, None], tiling, num)[:, 0]
        entropy = 0.5 * dimensions * (1.0 + math.log(2.0 * math.pi)) + log_std.sum(-1)
        return reconstruction, prior, entropy

    def _weights(self, hits: jax.Array) -> tuple[jax.Array | float, ...]:
        """Weights of reconstruction, prior and entropy for showers with hits [b]."""
        latent, scale = (
            1.0 / self.config.latent.dimensions,
            1.0 / self.config.points.points_per_shower,
        )
        return {
            "slide": (1.0, 1.0, 1.0),
            "released": (1.0 / self.coordinates.features, latent, latent),
            # The bound, divided by a constant that makes gradients as large as the others'.
            "bound": (hits * scale, scale, scale),
        }[self.config.points.weights]

    def _placement_loss(self, variables, key, energies, showers):
        assert self._placement
        grid = showers.reshape(-1, *self._grid)
        log_prob = trained(self._placement, variables, "placement")(grid)
        # Per hit, so that losses of different geometries can be compared.
        return -log_prob.sum() / jnp.maximum((showers > 0).sum(), 1), {}

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: float(value) for name, value in metrics.items()}

    # --- generation -------------------------------------------------------------------------------

    def sample(
        self, variables: Variables, keys: Keys, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        return self.sample_from(variables, self.noise(keys), energies, temperature=temperature)

    def noise(self, keys: Keys) -> Noise:
        """Normal numbers of totals [b, d] and latent vectors [b, latents], and keys of points [b].

        The points of a shower draw from its key, since their number is random: normal numbers, and
        uniform ones for their angles. Learnt angles take Gumbel noise [b, z, alpha, r].
        `array_noise` has no keys.
        """
        totals, latent = (self.encoding.features,), (self.config.latent.dimensions,)
        noise = {
            "totals": {"normal": rng.normal(rng.streams(keys, "totals"), totals)},
            "latent": {"normal": rng.normal(rng.streams(keys, "latent"), latent)},
            "points": {"key": keys},
        }
        if self._placement:
            gumbel = jax.vmap(lambda key: jax.random.gumbel(key, self._grid))
            noise["placement"] = {"gumbel": gumbel(rng.streams(keys, "placement"))}
        return noise

    def array_noise(self, keys: Keys) -> Noise:
        """`noise` with arrays for keys: numbers of as many points as there are voxels.

        They are normal [b, v, d] and uniform [b, v], and give the same showers.
        """
        number = jnp.arange(self.detector.n_voxels, dtype=jnp.int32)

        def drawn(key):
            return self._drawn(key[None], jnp.zeros_like(number))

        normal, uniform = jax.vmap(drawn)(keys)
        return {**self.noise(keys), "points": {"normal": normal, "uniform": uniform}}

    def _drawn(self, keys: Keys, owner: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normal [p, d] and uniform [p] numbers of points from the keys of their showers."""

        def normal(key):
            return jax.random.normal(key, (self.coordinates.features,))

        def uniform(key):
            return jax.random.uniform(key, dtype=jnp.float32)

        return (
            points.noise(normal, rng.streams(keys, "points"), owner),
            points.noise(uniform, rng.streams(keys, "angles"), owner),
        )

    def sample_from(
        self, variables: Variables, noise: Noise, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        """Totals, latent vector, points, angles.

        The temperature scales the noise of the latent vector and of the points.
        """
        totals = self.sample_totals(variables, noise, energies)
        latent = self.sample_latent(variables, noise, energies, totals, temperature)
        showers = self.sample_points(variables, noise, energies, totals, latent, temperature)
        return self.place(variables, noise, showers)

    def reconstruct(self, variables: Variables, keys: Keys, batch: Batch) -> Showers:
        """Showers drawn again from the mean of their posterior and their own totals."""
        showers, energies = batch["showers"], batch["energies"]
        latent = self.encode(variables, keys, showers)
        totals = self._totals_of(showers)
        noise = self.noise(keys)
        showers = self.sample_points(variables, noise, energies, totals, latent)
        return self.place(variables, noise, showers)

    def parts(self, variables: Variables, keys: Keys, energies: Energies) -> Parts:
        noise = self.noise(keys)
        totals = self.sample_totals(variables, noise, energies)
        latent = self.sample_latent(variables, noise, energies, totals)
        showers = self.sample_points(variables, noise, energies, totals, latent)
        parts: Parts = {
            "noise": (self.noise, (keys,)),
            "totals": (self.sample_totals, (variables, noise, energies)),
            "latent": (self.sample_latent, (variables, noise, energies, totals)),
            "points": (self.sample_points, (variables, noise, energies, totals, latent)),
        }
        if self._placement:
            parts["placement"] = (self.place, (variables, noise, showers))
        return parts

    def sample_totals(self, variables: Variables, noise: Noise, energies: Energies) -> Totals:
        """Hit counts and energies of showers."""
        condition = energy_condition(energies, self.detector)
        totals = trained(self._totals, variables, "totals")
        x = totals.inverse(noise["totals"]["normal"], condition)
        return self.encoding.inverse(x, energies, self._scales(variables))

    def sample_latent(
        self,
        variables: Variables,
        noise: Noise,
        energies: Energies,
        totals: Totals,
        temperature: float = 1.0,
    ) -> Latents:
        """Latent vectors from the prior."""
        context = self.encoding.describe(totals, energies, self._scales(variables))
        normal = temperature * noise["latent"]["normal"]
        return trained(self._latent, variables, "latent").inverse(normal, context)

    def encode(self, variables: Variables, keys: Keys, showers: Showers) -> Latents:
        """Means of the posterior of showers."""

        def encode(places, inside, keys, showers):
            showers = jnp.where(inside[:, None], showers, 0.0)
            hit, _ = points.to_points(showers, self.detector, places)
            noise = points.noise(
                lambda key: jax.random.uniform(key, (3,)), rng.streams(keys, "bins"), hit.owner
            )
            x, given = self._numbers(variables, hit, self._totals_of(showers), noise)
            num = len(showers)
            tiling, number = tiles.lay(points.count(hit.owner, num), places // _TILE, _TILE)
            both = jnp.concatenate([x, given], -1)[number]
            return trained(self._encoder, variables, "encoder")(both, tiling, num)[0]

        hits = (showers > 0).sum(1, dtype=jnp.int32)
        return self._in_microbatches(encode, hits, keys, showers)

    def sample_points(
        self,
        variables: Variables,
        noise: Noise,
        energies: Energies,
        totals: Totals,
        latent: Latents,
        temperature: float = 1.0,
    ) -> Showers:
        """Showers with the given totals, at random angles unless the points have angles."""
        context = self.encoding.describe(totals, energies, self._scales(variables))
        context = jnp.concatenate([context, latent], -1)

        def draw(places, inside, noise, context, hits, energy):
            totals = Totals(jnp.where(inside[:, None], hits, 0), energy)
            return self._draw(places, variables, noise, context, totals, temperature)

        own = noise["points"]
        return self._in_microbatches(draw, totals.hits.sum(-1), own, context, *totals)

    def place(self, variables: Variables, noise: Noise, showers: Showers) -> Showers:
        """Showers with their hits at learnt angles; unchanged if angles are not learnt."""
        if not self._placement:
            return showers
        placement = trained(self._placement, variables, "placement")
        gumbel = noise["placement"]["gumbel"]
        return placement.draw(gumbel, showers.reshape(-1, *self._grid)).reshape(showers.shape)

    def _draw(self, places, variables, noise, context, totals, temperature):
        """Showers [g, v] of a microbatch with totals [g, s], in a buffer of so many places."""
        num, parts = totals.hits.shape
        ends = jnp.cumsum(totals.hits.reshape(-1), dtype=jnp.int32)
        position = jnp.arange(places, dtype=jnp.int32)
        part = jnp.searchsorted(ends, position, side="right").astype(jnp.int32)
        owner, layer = part // parts, part % parts
        if "key" in noise:
            normal, uniform = self._drawn(noise["key"], owner)
        else:
            normal, uniform = (points.of_showers(noise[x], owner) for x in ("normal", "uniform"))
        normal = temperature * normal
        given = self._describe_points(variables, owner, layer, totals)
        hits = totals.hits.sum(-1)
        tiling, number = tiles.lay(hits, places // _TILE, _TILE)
        x = trained(self._points, variables, "points").inverse_of_first(
            normal[number],
            Owned(context, tiling, given[number]),
            _in_tiles(hits).sum(),
            sizes=tuple(sorted({_in_tiles(math.ceil(f * places)) for f in _FRACTIONS})),
        )
        # Padding may have no place.
        x = x[jnp.minimum(tiles.place(owner, hits, _TILE), len(x) - 1)]
        total = points.at(totals.energy.sum(-1), owner, fill=1.0)
        hit = self.coordinates.inverse(x, total, owner, layer, variables["transforms"]["hits"])
        hit = hit._replace(energy=rescaled(hit.energy, part, totals, self.detector))
        if not self.coordinates.has_alpha:
            hit = points.place(uniform, hit, num, self.detector)
        return points.to_showers(hit, self.detector, num)

    # --- helpers ----------------------------------------------------------------------------------

    def _scales(self, variables: Variables) -> Variables:
        return variables["transforms"]["totals"]

    def _totals_of(self, showers: jax.Array) -> Totals:
        """Totals of showers [b, v] in MeV."""
        hits = layer_sums((showers > 0).astype(jnp.int32), self.detector)
        return self.encoding.totals(hits, layer_sums(showers, self.detector))

    def _numbers(
        self, variables: Variables, hit: Points, totals: Totals, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Hits as real numbers [p, d], and the known numbers of each hit [p, k]."""
        total = points.at(totals.energy.sum(-1), hit.owner, fill=1.0)
        x = self.coordinates.forward(hit, total, noise, variables["transforms"]["hits"])
        return x, self._describe_points(variables, hit.owner, hit.layer, totals)

    @property
    def _given(self) -> int:
        """Number k of known numbers of a point."""
        return 0 if self.coordinates.has_layer else 1 + self.encoding.layer_features

    def _describe_points(
        self, variables: Variables, owner: jax.Array, layer: jax.Array, totals: Totals
    ) -> jax.Array:
        """Known numbers of points: depth and totals of the layer, or nothing, [p, k]."""
        if self.coordinates.has_layer:
            return jnp.zeros((len(owner), 0))
        depth = self.coordinates.depth(layer, variables["transforms"]["hits"])
        of_layers = self.encoding.of_layers(totals, self._scales(variables))
        own = of_layers[jnp.minimum(owner, len(of_layers) - 1), layer]
        return jnp.concatenate([depth[:, None], own], -1)

    def _in_groups(self, array: jax.Array) -> jax.Array:
        """[b, ...] -> [groups, group, ...], padded by zeros."""
        group = self.config.points.group
        missing = -len(array) % group
        array = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(-1, group, *array.shape[1:])

    def _in_microbatches(self, function, hits: jax.Array, *arrays: Any) -> jax.Array:
        """Applies function(places, inside, *rows of trees of arrays) to microbatches."""
        size = microbatches.size(self.config.generation, len(hits), self.detector.n_voxels)
        places = _in_tiles(size.points)
        return microbatches.apply(
            functools.partial(function, places),
            _in_tiles(hits),
            *arrays,
            size=size._replace(points=places),
        )


def _in_tiles(hits: Any) -> Any:
    """Places of the tiles of a shower, from its number of hits."""
    return -(-hits // _TILE) * _TILE
