"""CaloPointFlow: showers as points that a flow draws, given a latent vector of the whole shower.

After the talk on CaloPointFlow II (CaloChallenge workshop, November 2023), with all steps from
version I on as settings, and what goes beyond it. Stages are trained in turn:

- ``totals``: a flow for how many hits a shower has and how much energy (`totals`);
- ``points``: a variational autoencoder of sets. An encoder tells the posterior q(z | X) of a latent
  z, one flow the prior p(z), another the points p(x | z), independent of each other given z;
- ``placement``, if angles are learnt: bins of the hits on their rings (`angular_placement`).

    E_inc --> totals --> hits, energy --+--> prior --> z --+
                                        +-----------------+--> points --> rescaled --> placed

Hits get exactly the energy of their quota, with none below the readout threshold: their excess over
it is rescaled.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.data import strata
from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.base import Batch, Outcome, Schedule, Stage, Variables
from calojax.models.pointflow import microbatches
from calojax.models.pointflow import points as pointclouds
from calojax.models.pointflow.angular_placement import Placement
from calojax.models.pointflow.coordinates import Coordinates, CoordinatesName, Counts
from calojax.models.pointflow.dequantisation import DequantisationName, HitEnergiesName
from calojax.models.pointflow.points import Points
from calojax.models.pointflow.totals import EveryLayer, Quota, Totals, WholeShower, least_energy
from calojax.models.voxels import energy_condition, layer_sums
from calojax.nn import tiles
from calojax.nn.deepset import Encoder
from calojax.nn.flow import Flow, Owned, Summary
from calojax.nn.tiles import Tiling

Weights = Literal["slide", "released", "bound"]
Angles = Literal["uniform", "learnt"]

# Places of a tile (see `calojax.nn.tiles`): half of them are left over in the mean, 1 or 2 % of the
# points of a shower.
_TILE = 16


@dataclasses.dataclass(frozen=True)
class TotalsConfig:
    """The flow of the numbers of hits and their energy.

    Attributes:
      depth: coupling layers.
      bins: of the splines.
      hidden: widths of the couplings' networks.
      schedule: of the optimiser.
    """

    depth: int = 12
    bins: int = 12
    hidden: tuple[int, ...] = (128, 128, 128)
    schedule: Schedule = Schedule(20_000, 256)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The posterior of the latent vector given all points.

    Attributes:
      point: widths of the network of a point.
      shower: widths of the network of a shower.
    """

    point: tuple[int, ...] = (64, 128, 1024)
    shower: tuple[int, ...] = (1024, 512, 512)


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """The latent vector and the flow that is its prior.

    Attributes:
      dimensions: of the vector.
      depth: coupling layers.
      bins: of the splines.
      hidden: widths of the couplings' networks.
    """

    dimensions: int = 128
    depth: int = 8
    bins: int = 8
    hidden: tuple[int, ...] = (1024, 1024, 1024)


@dataclasses.dataclass(frozen=True)
class PointsConfig:
    """The flow of points, and how the autoencoder is trained.

    Attributes:
      coordinates: that are drawn: layer and both coordinates of the "plane" (version I), layer and
        r ("rings", version II), or r of hits whose layer is given by quota ("layers").
      dequantisation: of bins: "uniform" noise and a logit, or by "cdf".
      energy: of hits: "fraction" of E_sum through a logit (as published), or "log".
      deep_sets: whether every coupling sees a summary of the shower's points.
      summary: which.
      depth: coupling layers.
      bins: of the splines.
      hidden: widths of the couplings' networks.
      weights: of reconstruction, prior and entropy: all 1 ("slide"), each divided by its number of
        dimensions ("released"), or those of the evidence lower bound, which has the sum over points
        where the others have their mean ("bound").
      group: showers that share a buffer in training, a power of two.
      points_per_shower: size of that buffer, divided by the group; a few per cent above the mean
        number of hits.
      schedule: of the optimiser.
    """

    coordinates: CoordinatesName = "rings"
    dequantisation: DequantisationName = "cdf"
    energy: HitEnergiesName = "fraction"
    deep_sets: bool = True
    summary: Summary = Summary()
    depth: int = 12
    bins: int = 8
    hidden: tuple[int, ...] = (128, 128, 128)
    weights: Weights = "released"
    group: int = 32
    points_per_shower: int = 600
    schedule: Schedule = Schedule(40_000, 256, weight_decay=0.01)

    def __post_init__(self):
        if self.group < 1 or self.group & (self.group - 1):
            raise CalojaxError(
                f"A group of {self.group} showers is no power of two; set --points.group to 32."
            )
        if self.schedule.batch_size % self.group:
            raise CalojaxError(
                f"{self.schedule.batch_size} showers a step are not whole groups of {self.group}; "
                "change --points.group or --points.schedule.batch-size."
            )
        if self.points_per_shower < 1:
            raise CalojaxError(
                f"--points.points-per-shower is {self.points_per_shower}; take at least 1."
            )


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """Where on their rings hits go, if their angles are not drawn.

    Attributes:
      angles: "uniform" on distinct bins, as published, or "learnt".
      hidden: channels of the network.
      window: layers before that it sees one by one.
      schedule: of the optimiser.
    """

    angles: Angles = "uniform"
    hidden: int = 128
    window: int = 3
    schedule: Schedule = Schedule(20_000, 256)


class Chunk(NamedTuple):
    """What is generated at a time.

    Attributes:
      showers: most of them.
      points: most of their points.
    """

    showers: int
    points: int


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How much is generated at a time; changes nothing but speed and memory.

    What is not set follows the device: on a CPU a few buffers that its cores can share, elsewhere
    enough for thousands of cores, for which a small chunk is mostly waiting.

    Attributes:
      showers: most showers of a chunk.
      points: most hits of a chunk; raised to the voxels of a shower if need be.
    """

    showers: int | None = None
    points: int | None = None

    def __post_init__(self):
        for name in ("showers", "points"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise CalojaxError(f"--generation.{name} is {size}; take 1 or more.")

    def chunk(self, batch: int, voxels: int) -> Chunk:
        """The chunks of a batch of showers that have so many voxels each."""
        device = _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR
        points = min(self.points or device.points, batch * voxels)
        return Chunk(min(self.showers or device.showers, batch), max(points, voxels))


_ON_CPU = Chunk(showers=64, points=32_768)
# Sums over more showers would not always be added up in the same order (see `calojax.nn.tiles`).
_ON_ACCELERATOR = Chunk(showers=256, points=262_144)
# The last chunk, or all there is of a small batch, has fewer points than a chunk holds; of the flow
# there are programs for these shares of it.
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)


@dataclasses.dataclass(frozen=True)
class PointFlowConfig:
    """CaloPointFlow: one block of settings a part.

    Attributes:
      totals: the flow of the numbers of hits and their energy.
      encoder: the posterior of the latent vector.
      latent: the latent vector and its prior.
      points: the flow of points.
      placement: of points on their rings.
      generation: how much is generated at a time.
    """

    totals: TotalsConfig = TotalsConfig()
    encoder: EncoderConfig = EncoderConfig()
    latent: LatentConfig = LatentConfig()
    points: PointsConfig = PointsConfig()
    placement: PlacementConfig = PlacementConfig()
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self):
        if self.placement.angles == "learnt" and self.points.coordinates == "plane":
            raise CalojaxError(
                "Points in the plane have angles of their own; leave --placement.angles at "
                "'uniform' or take --points.coordinates rings."
            )


@dataclasses.dataclass(frozen=True)
class PointFlow:
    """The model (see the module's docstring); implements `calojax.models.base.Model`."""

    config: PointFlowConfig
    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Totals, points, and placement if angles are learnt."""
        config = self.config
        stages = (
            Stage("totals", ("totals",), config.totals.schedule),
            Stage("points", ("encoder", "latent", "points"), config.points.schedule),
        )
        if config.placement.angles == "learnt":
            stages += (Stage("placement", ("placement",), config.placement.schedule),)
        return stages

    # --- modules ----------------------------------------------------------------------------------

    @functools.cached_property
    def totals(self) -> Totals:
        """The parts of a shower that have quotas: itself, or its layers."""
        by_layer = self.config.points.coordinates == "layers"
        return EveryLayer(self.detector) if by_layer else WholeShower(self.detector)

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """A hit as numbers."""
        c = self.config.points
        return Coordinates(self.detector, c.coordinates, c.dequantisation, c.energy)

    @functools.cached_property
    def _totals(self) -> Flow:
        c = self.config.totals
        return Flow(self.totals.features, c.depth, c.bins, c.hidden)

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
    def _placement(self) -> Placement:
        c = self.config.placement
        unit = max(self.detector.readout_threshold, 1e-3)
        return Placement(self._grid[2], unit, c.hidden, c.window)

    @property
    def _grid(self) -> tuple[int, int, int]:
        """(z, alpha, r) shape of the detector."""
        if self.detector.grid is None:
            raise CalojaxError(
                f"{self.detector.name}: its layers are not all alike, so its showers cannot be "
                "points; train Calo-VQ on this geometry."
            )
        return self.detector.grid

    # --- start ------------------------------------------------------------------------------------

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Fits scales of hits and totals, and checks that the buffer holds every group of hits.

        Raises:
          CalojaxError: if the detector is no grid, or if the hits of a group could be more than
            ``points_per_shower`` allows.
        """
        z, n_alpha, n_r = self._grid
        counts = Counts(self.coordinates)
        parts = []
        for incident, voxels in showers:
            grid = voxels.reshape(len(voxels), z, n_alpha, n_r)
            counts.add(grid)
            # Sums in float64: thousands of hits.
            parts.append(((grid > 0).sum((2, 3)), grid.sum((2, 3), dtype=np.float64), incident))
        hits, energy, incident = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._check_budget(hits.sum(1))
        return {
            "hits": self.coordinates.fit(counts),
            "totals": self.totals.fit(hits, energy, incident),
        }

    def init(self, key: jax.Array, transforms: Variables, batch: Batch) -> Variables:
        """Random networks; flows start as the identity."""
        shower = jnp.zeros((1, self.totals.context))
        latent = jnp.zeros((1, self.config.latent.dimensions))
        point = jnp.zeros((1, self.coordinates.features))
        tiling = Tiling(jnp.zeros(1, jnp.int32), jnp.ones((1, 1), bool))
        given = jnp.zeros((1, self._given))
        owned = Owned(jnp.concatenate([shower, latent], -1), tiling, given)
        # Incident energy alone is known to the flow of the totals.
        modules = {
            "totals": (self._totals, jnp.zeros((1, self.totals.features)), jnp.zeros((1, 1))),
            "encoder": (self._encoder, jnp.concatenate([point, given], -1), tiling, 1),
            "latent": (self._latent, latent, shower),
            "points": (self._points, point, owned),
        }
        if self.config.placement.angles == "learnt":
            modules["placement"] = (self._placement, jnp.zeros((1, *self._grid)))
        params = {
            name: module.init(rng.stream(key, name), *inputs)["params"]
            for name, (module, *inputs) in modules.items()
        }
        return {"params": params, "state": {}, "transforms": transforms}

    # --- losses -----------------------------------------------------------------------------------

    def loss(
        self, stage: str, variables: Variables, key: jax.Array, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """The loss of a stage; metrics carry the names of the talk's terms, in nats."""
        losses = {
            "totals": self._totals_loss,
            "points": self._points_loss,
            "placement": self._placement_loss,
        }
        loss, metrics = losses[stage](variables, key, batch["energies"], batch["showers"])
        return loss, Outcome({"loss": loss} | metrics, variables["state"])

    def _totals_loss(self, variables, key, energies, showers):
        x = self.totals.forward(
            rng.stream(key, "totals"), self._quota(showers), energies, self._scales(variables)
        )
        condition = energy_condition(energies, self.detector)
        log_prob = self._apply(variables, "totals", x, condition, method="log_prob")
        return -log_prob.mean(), {}

    def _points_loss(self, variables, key, energies, showers):
        c = self.config.points
        groups = self._in_groups(showers)
        num = len(groups)
        whole = self._quota(showers)
        context = self.totals.describe(whole, energies, self._scales(variables))
        by_group = [self._in_groups(array) for array in (context, whole.hits, whole.energy)]

        def terms(key, showers, context, hits, energy):
            size = c.group * c.points_per_shower
            hit, overflow = pointclouds.to_points(showers, self.detector, size)
            noise = jax.random.uniform(rng.stream(key, "within bins"), (size, 3))
            quota = Quota(hits, energy)
            x, given = self._numbers(variables, hit, quota, noise)
            normal = jax.random.normal(
                rng.stream(key, "posterior"), (c.group, self.config.latent.dimensions)
            )
            # Each shower may leave places of its last tile over.
            count = -(-size // _TILE) + c.group
            tiling, number = tiles.lay(_hits(hit.owner, c.group), count, _TILE)
            elbo = self.bound(variables, x[number], given[number], tiling, context, normal)
            return elbo, overflow

        keys = rng.per_item(rng.stream(key, "points"), jnp.arange(num))
        elbo, overflow = jax.vmap(terms)(keys, groups, *by_group)
        # Showers that fill up the last group count nothing.
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
        x: jax.Array,
        given: jax.Array,
        tiling: Tiling,
        context: jax.Array,
        normal: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Terms of the talk's objective for g showers, which is to be made large, in nats.

        - reconstruction: mean over a shower's points of log p(x | z), of the numbers x;
        - prior: log p(z), that is log N(f(z)) + log |det df/dz|;
        - entropy: of the posterior, d/2 (1 + ln 2 pi) + sum of ln sigma.

        Args:
          variables: of the model.
          x: points as numbers [p, d].
          given: what is known of points [p, k].
          tiling: of the points, with p places.
          context: of the showers [g, c].
          normal: standard normal noise of the posterior [g, latents].

        Returns:
          reconstruction, prior, entropy, each [g].
        """
        num, dimensions = normal.shape
        mean, log_std = self._apply(
            variables, "encoder", jnp.concatenate([x, given], -1), tiling, num
        )
        latent = mean + jnp.exp(log_std) * normal
        prior = self._apply(variables, "latent", latent, context, method="log_prob")
        owned = Owned(jnp.concatenate([context, latent], -1), tiling, given)
        log_prob = self._apply(variables, "points", x, owned, method="log_prob")
        reconstruction = tiles.mean(log_prob[:, None], tiling, num)[:, 0]
        entropy = 0.5 * dimensions * (1.0 + math.log(2.0 * math.pi)) + log_std.sum(-1)
        return reconstruction, prior, entropy

    def _weights(self, hits: jax.Array) -> tuple[jax.Array | float, ...]:
        """Weights of reconstruction, prior and entropy for showers with hits [b]."""
        c = self.config.points
        if c.weights == "slide":
            return 1.0, 1.0, 1.0
        if c.weights == "released":
            latent = 1.0 / self.config.latent.dimensions
            return 1.0 / self.coordinates.features, latent, latent
        # The bound itself, divided by a constant that brings gradients to those of the others.
        scale = 1.0 / c.points_per_shower
        return hits * scale, scale, scale

    def _placement_loss(self, variables, key, energies, showers):
        grid = showers.reshape(-1, *self._grid)
        log_prob = self._apply(variables, "placement", grid)
        # A hit, so that numbers mean the same for every geometry.
        loss = -log_prob.sum() / jnp.maximum((showers > 0).sum(), 1)
        return loss, {}

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The numbers as they are."""
        return {name: float(value) for name, value in metrics.items()}

    # --- generation -------------------------------------------------------------------------------

    def sample(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        *,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Showers [b, v] in MeV: totals, latent vector, points, their places; a key a shower [b].

        The temperature scales the noise of the latent vector and of the points.
        """
        quota = self.sample_totals(variables, keys, energies)
        latent = self.sample_latent(variables, keys, energies, quota, temperature)
        showers = self.sample_points(variables, keys, energies, quota, latent, temperature)
        return self.place(variables, keys, showers)

    def reconstruct(self, variables: Variables, keys: jax.Array, batch: Batch) -> jax.Array:
        """Showers drawn anew from the mean of their posterior, with their own totals."""
        showers, energies = batch["showers"], batch["energies"]
        quota = self._quota(showers)
        latent = self.encode(variables, keys, showers)
        showers = self.sample_points(variables, keys, energies, quota, latent)
        return self.place(variables, keys, showers)

    def parts(
        self, variables: Variables, keys: jax.Array, energies: jax.Array
    ) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """The steps that `sample` takes in turn."""
        quota = self.sample_totals(variables, keys, energies)
        latent = self.sample_latent(variables, keys, energies, quota)
        showers = self.sample_points(variables, keys, energies, quota, latent)
        parts = {
            "totals": (self.sample_totals, (variables, keys, energies)),
            "latent": (self.sample_latent, (variables, keys, energies, quota)),
            "points": (self.sample_points, (variables, keys, energies, quota, latent)),
        }
        if self.config.placement.angles == "learnt":
            parts["placement"] = (self.place, (variables, keys, showers))
        return parts

    def sample_totals(self, variables: Variables, keys: jax.Array, energies: jax.Array) -> Quota:
        """Hits and energies of showers."""
        normal = _normal(rng.streams(keys, "totals"), self.totals.features)
        condition = energy_condition(energies, self.detector)
        x = self._apply(variables, "totals", normal, condition, method="inverse")
        return self.totals.inverse(x, energies, self._scales(variables))

    def sample_latent(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        quota: Quota,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Latent vectors [b, latents] from the prior."""
        context = self.totals.describe(quota, energies, self._scales(variables))
        normal = _normal(rng.streams(keys, "latent"), self.config.latent.dimensions)
        return self._apply(variables, "latent", temperature * normal, context, method="inverse")

    def encode(self, variables: Variables, keys: jax.Array, showers: jax.Array) -> jax.Array:
        """Means of the posterior [b, latents] of showers [b, v] in MeV."""

        def encode(places, inside, keys, showers):
            showers = jnp.where(inside[:, None], showers, 0.0)
            hit, _ = pointclouds.to_points(showers, self.detector, places)
            quota = self._quota(showers)
            noise = _of_points(
                lambda key: jax.random.uniform(key, (3,)), rng.streams(keys, "bins"), hit.owner
            )
            x, given = self._numbers(variables, hit, quota, noise)
            num = len(showers)
            tiling, number = tiles.lay(_hits(hit.owner, num), places // _TILE, _TILE)
            both = jnp.concatenate([x, given], -1)[number]
            return self._apply(variables, "encoder", both, tiling, num)[0]

        hits = (showers > 0).sum(1, dtype=jnp.int32)
        return self._in_chunks(encode, hits, keys, showers)

    def sample_points(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        quota: Quota,
        latent: jax.Array,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Showers [b, v] in MeV that fill their quotas, at random angles unless these are drawn."""
        context = self.totals.describe(quota, energies, self._scales(variables))
        context = jnp.concatenate([context, latent], -1)

        def draw(places, inside, keys, context, hits, energy):
            quota = Quota(jnp.where(inside[:, None], hits, 0), energy)
            return self._fill(places, variables, keys, context, quota, temperature)

        return self._in_chunks(draw, quota.hits.sum(-1), keys, context, *quota)

    def place(self, variables: Variables, keys: jax.Array, showers: jax.Array) -> jax.Array:
        """Showers [b, v] with the hits of their rings at learnt angles, if there are such."""
        if self.config.placement.angles == "uniform":
            return showers
        keys = rng.streams(keys, "placement")
        gumbel = jax.vmap(lambda key: jax.random.gumbel(key, self._grid))(keys)
        grid = showers.reshape(-1, *self._grid)
        placed = self._apply(variables, "placement", gumbel, grid, method="draw")
        return placed.reshape(showers.shape)

    def _fill(self, places, variables, keys, context, quota, temperature):
        """Showers [g, v] of a chunk of so many places, with quotas [g, s]."""
        num, parts = quota.hits.shape
        of_part = jnp.cumsum(quota.hits.reshape(-1), dtype=jnp.int32)
        position = jnp.arange(places, dtype=jnp.int32)
        part = jnp.searchsorted(of_part, position, side="right").astype(jnp.int32)
        owner, layer = part // parts, part % parts
        normal = temperature * _of_points(
            lambda key: jax.random.normal(key, (self.coordinates.features,)),
            rng.streams(keys, "points"),
            owner,
        )
        given = self._known(variables, owner, layer, quota)
        hits = quota.hits.sum(-1)
        tiling, number = tiles.lay(hits, places // _TILE, _TILE)
        x = self._apply(
            variables,
            "points",
            normal[number],
            Owned(context, tiling, given[number]),
            _in_tiles(hits).sum(),
            sizes=tuple(sorted({_in_tiles(math.ceil(share * places)) for share in _SHARES})),
            method="inverse_of_first",
        )
        x = x[tiles.place(owner, hits, _TILE)]
        total = _at(quota.energy.sum(-1), owner, fill=1.0)
        hit = self.coordinates.inverse(x, total, owner, layer, variables["transforms"]["hits"])
        hit = hit._replace(energy=self._rescaled(hit.energy, part, quota))
        if self.config.points.coordinates != "plane":
            hit = pointclouds.place(rng.streams(keys, "angles"), hit, self.detector)
        return pointclouds.to_showers(hit, self.detector, num)

    def _rescaled(self, energy: jax.Array, part: jax.Array, quota: Quota) -> jax.Array:
        """Energies [p] of hits of parts [p], so that these hold their quotas [g, s]; 0 for padding.

        The excess over the least energy is multiplied, which a quota holds for each of its hits.
        """
        least = least_energy(self.detector)
        excess = jnp.maximum(energy - least, 1e-6 * energy)
        # Quotas of real showers may have hits on the threshold.
        wanted = jnp.maximum(quota.energy - quota.hits * least, 0.0).reshape(-1)
        found = _sums(excess, part, wanted.size)
        factor = wanted / jnp.where(found > 0, found, 1.0)
        inside = part < wanted.size
        return jnp.where(inside, least + excess * _at(factor, part), 0.0)

    # --- pieces -----------------------------------------------------------------------------------

    def _apply(self, variables, name, *args, **kwargs):
        module: nn.Module = getattr(self, f"_{name}")
        return module.apply({"params": variables["params"][name]}, *args, **kwargs)

    def _scales(self, variables: Variables) -> Variables:
        return variables["transforms"]["totals"]

    def _quota(self, showers: jax.Array) -> Quota:
        """Quotas that showers [b, v] in MeV fill."""
        hits = layer_sums((showers > 0).astype(jnp.int32), self.detector)
        return self.totals.quota(hits, layer_sums(showers, self.detector))

    def _numbers(
        self, variables: Variables, hit: Points, quota: Quota, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Hits as numbers [p, d], and what is known of them [p, k]."""
        total = _at(quota.energy.sum(-1), hit.owner, fill=1.0)
        x = self.coordinates.forward(hit, total, noise, variables["transforms"]["hits"])
        return x, self._known(variables, hit.owner, hit.layer, quota)

    @property
    def _given(self) -> int:
        """Numbers that are known of a point: nothing, or depth, hits and energy of its layer."""
        return 3 if self.config.points.coordinates == "layers" else 0

    def _known(
        self, variables: Variables, owner: jax.Array, layer: jax.Array, quota: Quota
    ) -> jax.Array:
        """What is known of points, [p, k]; see `_given`."""
        if not self._given:
            return jnp.zeros((len(owner), 0))
        depth = self.coordinates.depth(layer, variables["transforms"]["hits"])
        of_layers = self.totals.of_layers(quota, self._scales(variables))
        own = of_layers[jnp.minimum(owner, len(of_layers) - 1), layer]
        return jnp.concatenate([depth[:, None], own], -1)

    def _in_groups(self, array: jax.Array) -> jax.Array:
        """[b, ...] -> [groups, group, ...], filled up with zeros."""
        group = self.config.points.group
        missing = -len(array) % group
        array = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(-1, group, *array.shape[1:])

    def _in_chunks(self, function, hits: jax.Array, *arrays: jax.Array) -> jax.Array:
        """Applies a function of (places, which are inside, rows of arrays) to chunks of showers."""
        chunk = self.config.generation.chunk(len(hits), self.detector.n_voxels)
        places = _in_tiles(chunk.points)
        return microbatches.over_showers(
            functools.partial(function, places),
            _in_tiles(hits),
            *arrays,
            showers=chunk.showers,
            points=places,
        )

    def _check_budget(self, hits: np.ndarray) -> None:
        """Refuses a buffer that some batch of showers with hits [n] would not fit.

        Raises:
          CalojaxError: which names the size to take.
        """
        c = self.config.points
        size = c.schedule.batch_size
        if size > len(hits):
            # Too few showers for one batch, which training will say.
            return
        needed = -(-strata.bound(hits, size, c.group) // c.group)
        if needed > c.points_per_shower:
            raise CalojaxError(
                f"Groups of {c.group} showers can have {needed} hits a shower, more than "
                f"--points.points-per-shower {c.points_per_shower}; set it to {needed}."
            )


def _normal(keys: jax.Array, num: int) -> jax.Array:
    """Standard normal noise [b, num] from one key a shower [b]."""
    return jax.vmap(lambda key: jax.random.normal(key, (num,)))(keys)


def _of_points(draw, keys: jax.Array, owner: jax.Array) -> jax.Array:
    """Noise of points [p, ...] with keys [g]: the i-th of a shower is the same in any buffer."""
    num = len(keys)
    first = pointclouds.starts(owner, num)
    own = jnp.minimum(owner, num - 1)
    number = jnp.arange(len(owner), dtype=jnp.int32) - first[own]
    return jax.vmap(lambda key, i: draw(jax.random.fold_in(key, i)))(keys[own], number)


def _hits(owner: jax.Array, num: int) -> jax.Array:
    """Points of each of ``num`` showers, int32 [num], from the owners of points [p]."""
    return jnp.diff(pointclouds.starts(owner, num))


def _in_tiles(hits: jax.Array) -> jax.Array:
    """Places that showers with hits [b] take, with those left over in their last tiles."""
    return -(-hits // _TILE) * _TILE


def _sums(values: jax.Array, part: jax.Array, num: int) -> jax.Array:
    """Sums values [p] over each of ``num`` parts [p], which are sorted -> [num].

    Pairs of neighbours are added up, then pairs of pairs: always in the same order, unlike atomic
    additions on a GPU, and to the last bits, unlike differences of cumulative sums.
    """

    def add(left, right):
        (a, of_a), (b, of_b) = left, right
        return b + jnp.where(of_a == of_b, a, 0), of_b

    upto, _ = jax.lax.associative_scan(add, (values, part))
    ends = pointclouds.starts(part, num)
    return jnp.where(ends[1:] > ends[:-1], upto[ends[1:] - 1], 0.0)


def _at(values: jax.Array, index: jax.Array, *, fill: float = 0.0) -> jax.Array:
    """Values [n] at index [p]; ``fill`` beyond the end."""
    return values.at[index].get(mode="fill", fill_value=fill)
