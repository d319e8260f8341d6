"""Parametrised showers for any geometry: unlimited data without a full simulation.

Electromagnetic showers follow G. Grindhammer and S. Peters, "The parameterized simulation of
electromagnetic showers in homogeneous and sampling calorimeters" (hep-ex/0001020; the formulas of
GFLASH), here "GP". The mean energy density of a shower is E f(t) f(r), t in radiation lengths:

- f(t) is a gamma distribution whose maximum T and shape alpha fluctuate together, integrated over
  layers with the regularised incomplete gamma function (`longitudinal`, `slice_fractions`);
- f(r) is a narrow core and a wide tail that grow with tau = t / T, integrated over rings in closed
  form (`radial`, `ring_fractions`);
- a sampling calorimeter sees this density through a finite number of tracks. In place of GP's
  energy spots, scattered one by one, each voxel draws a Poisson number of quanta and their sum
  (`deposits`), which costs the same at any energy.

Four constants, marked "tuned", were adjusted to a Geant4 simulation of dataset 2's
silicon-tungsten calorimeter (electrons, 1-64 GeV); all others are GP's or follow from `Medium`.

Pions are a simple hadronic variant for testing software, not for physics (`_pion_rings`).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, ndtri

from calojax import rng
from calojax.errors import CalojaxError
from calojax.geometry import Detector, Medium

GEV = 1e3  # MeV

# Below ln y = 2.5 (100 MeV in a heavy absorber) GP's fitted widths diverge.
_LOWEST_LN_Y = 2.5
# A shape of 1 or less has no maximum; showers of low energy sometimes fluctuate to it.
_LOWEST_ALPHA = 1.3
# Largest number of slices per layer.
_MOST_CUTS = 64
# f(r) was fitted up to a few T; beyond that its growing exponential would dominate.
_HIGHEST_TAU = 6.0

# Number of plates per X0, F_S in GP's corrections for sampling calorimeters, of silicon-tungsten;
# lead and liquid argon have about the same.
_PLATES = 2.5
# GP's 1 - e/mip in the corrections of f(r) (tuned). GP's estimate is 0.3 for silicon-tungsten, but
# puts 77 % of the energy in dataset 2's innermost ring, where Geant4 has 68 %.
_IMBALANCE = -0.72
# Depth in X0 by which a layer sees the shower deeper than its position (tuned): active material
# lies behind the absorber that it samples. Half an absorber plate with its gap is 0.2 X0.
_SAMPLING_OFFSET = 0.45

# Relative variance of one quantum's energy (tuned): the spread of single hits in 0.3 mm silicon.
QUANTUM_VARIANCE = 0.8
# Lateral displacement of a 1 GeV shower along each axis in R_M (tuned), and the scale R in R_M,
# between core and tail, of the density 1 / (r^2 + R^2)^2 that is displaced.
_DISPLACEMENT = 0.09
_DISPLACED_SCALE = 0.25

# Hadronic part of pion showers: width of the radial profile in interaction lengths, and h/e.
_HADRON_WIDTH = 0.2
_HADRON_RESPONSE = 0.7


class Profile(NamedTuple):
    """Longitudinal profiles of n showers: gamma distributions in the depth beyond a start."""

    start: jax.Array  # depth in mm at which the shower begins [n]
    alpha: jax.Array  # shape of the gamma distribution [n]
    beta: jax.Array  # its rate in 1/mm [n]

    @property
    def maximum(self) -> jax.Array:
        """Depth of the maximum beyond ``start`` in mm [n], for alpha above 1."""
        return (self.alpha - 1) / self.beta


class _Grid(NamedTuple):
    """A detector as arrays: s slices along z, l layers of up to r rings, v voxels."""

    slice_edges: np.ndarray  # depth in mm, including the sampling offset [s + 1]
    slice_layer: np.ndarray  # one-hot [s, l]
    r_edges: np.ndarray  # mm [s, r + 1]; a layer with fewer rings repeats its outermost edge
    voxel_ring: np.ndarray  # index into the flattened [l, r] rings [v]
    voxel_share: np.ndarray  # 1 / number of angular bins [v]
    voxel_slope: np.ndarray  # relative change per mm of displacement along eta and phi [2, v]


@functools.cache
def _grid(detector: Detector) -> _Grid:
    """The arrays of a detector; layers thicker than X0 are cut, since f(r) changes inside them."""
    cuts = [
        min(math.ceil(layer.thickness / detector.medium.radiation_length), _MOST_CUTS)
        for layer in detector.layers
    ]
    pieces = [
        np.linspace(low, high, n, endpoint=False)
        for low, high, n in zip(detector.z_edges[:-1], detector.z_edges[1:], cuts, strict=True)
    ]
    position = np.repeat(np.arange(detector.n_layers), cuts)
    n_r = max(layer.n_r for layer in detector.layers)
    r_edges = np.array(
        [np.pad(layer.r_edges, (0, n_r - layer.n_r), mode="edge") for layer in detector.layers]
    )
    slice_edges = np.concatenate([*pieces, detector.z_edges[-1:]])
    # The front is not moved: the first layer also sees the shower from its own absorber.
    slice_edges[1:] += _SAMPLING_OFFSET * detector.medium.radiation_length
    voxels = detector.voxels
    share = 1 / voxels.n_alpha
    core = _DISPLACED_SCALE * detector.medium.moliere_radius
    # The density 1 / (r^2 + R^2)^2 moved by d changes by the factor 1 + d cos(alpha) 4r/(r^2+R^2),
    # averaged over an angular bin of width 2 pi / n: cos at its centre times sinc(1 / n).
    slope = 4 * voxels.r_center / (voxels.r_center**2 + core**2) * np.sinc(share)
    direction = np.stack([np.cos(voxels.alpha_center), np.sin(voxels.alpha_center)])
    return _Grid(
        slice_edges=slice_edges.astype(np.float32),
        slice_layer=np.eye(detector.n_layers, dtype=np.float32)[position],
        r_edges=r_edges[position].astype(np.float32),
        voxel_ring=(voxels.layer * n_r + voxels.r).astype(np.int32),
        voxel_share=share.astype(np.float32),
        voxel_slope=(slope * direction).astype(np.float32),
    )


def effective_z(medium: Medium) -> float:
    """Atomic number of the element with this critical energy, E_c = 610 MeV / (Z + 1.24).

    The fit for solids of the Review of Particle Physics, "Passage of particles through matter".
    """
    return 610.0 / medium.critical_energy - 1.24


def longitudinal(
    energies: jax.Array, normals: jax.Array, medium: Medium, start: jax.Array | float = 0.0
) -> Profile:
    """Profiles of electromagnetic showers with GP's fluctuations, for homogeneous media.

    Energies [n] are in MeV. Two standard normal numbers for each shower [n, 2] make it fluctuate;
    zeros give the typical shower. ``start`` [n] is the depth in mm of the first radiation.

    Of GP's corrections for sampling calorimeters only the one of alpha is made: those of T would
    put the maximum 0.3 X0 above Geant4's in silicon-tungsten.
    """
    ln_y = jnp.maximum(jnp.log(energies / medium.critical_energy), _LOWEST_LN_Y)
    rho = 0.705 - 0.023 * ln_y
    # Two normal numbers of correlation rho from two independent ones.
    same, opposite = jnp.sqrt((1 + rho) / 2), jnp.sqrt((1 - rho) / 2)
    first, second = normals[..., 0], normals[..., 1]
    ln_maximum = jnp.log(ln_y - 0.812) + (same * first + opposite * second) / (-1.4 + 1.26 * ln_y)
    ln_alpha = jnp.log(0.81 + (0.458 + 2.26 / effective_z(medium)) * ln_y) + (
        same * first - opposite * second
    ) / (-0.58 + 0.86 * ln_y)
    maximum = jnp.exp(ln_maximum) * medium.radiation_length
    alpha = jnp.maximum(jnp.exp(ln_alpha) - 0.476 / _PLATES, _LOWEST_ALPHA)
    return Profile(jnp.broadcast_to(start, alpha.shape), alpha, (alpha - 1) / maximum)


def slice_fractions(profile: Profile, edges: jax.Array) -> jax.Array:
    """Fraction of the energy between successive depths: edges [s + 1] in mm -> [n, s]."""
    depth = jnp.maximum(edges - profile.start[:, None], 0.0)
    below = gammainc(profile.alpha[:, None], profile.beta[:, None] * depth)
    return jnp.diff(below, axis=1)


class Radial(NamedTuple):
    """Radial profile p 2r Rc^2/(r^2+Rc^2)^2 + (1-p) 2r Rt^2/(r^2+Rt^2)^2; any shape."""

    core: jax.Array  # Rc in mm
    tail: jax.Array  # Rt in mm
    share: jax.Array  # p


def radial(tau: jax.Array, energies: jax.Array, medium: Medium) -> Radial:
    """Radial profiles at depths tau = t / T [n, s] for energies [n] in MeV.

    They are GP's for homogeneous media, corrected for sampling.
    """
    z = effective_z(medium)
    ln_e = jnp.log(energies / GEV)[:, None]
    tau = jnp.clip(tau, 0.0, _HIGHEST_TAU)
    core = 0.0251 + 0.00319 * ln_e + (0.1162 - 0.000381 * z) * tau
    tail = (0.659 - 0.00309 * z) * (
        jnp.exp(-2.59 * (tau - 0.645)) + jnp.exp((0.3585 + 0.0421 * ln_e) * (tau - 0.645))
    )
    exponent = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * ln_e)
    share = (2.632 - 0.00094 * z) * jnp.exp(exponent - jnp.exp(exponent))
    near = jnp.exp(-tau) / _PLATES
    core = core - 0.0203 * _IMBALANCE + 0.0397 * near
    tail = tail - 0.14 * _IMBALANCE - 0.495 * near
    share = share + _IMBALANCE * (0.348 - 0.642 / _PLATES * jnp.exp(-jnp.square(tau - 1)))
    return Radial(
        core=medium.moliere_radius * core,
        tail=medium.moliere_radius * tail,
        share=jnp.clip(share, 0.0, 1.0),
    )


def ring_fractions(profile: Radial, edges: jax.Array) -> jax.Array:
    """Fraction of the energy in each ring, [n, s] profiles and edges [s, r + 1] mm -> [n, s, r].

    The integral of 2 r R^2 / (r^2 + R^2)^2 from 0 to r is r^2 / (r^2 + R^2).
    """
    square = jnp.square(edges)

    def inside(scale: jax.Array) -> jax.Array:
        return square / (square + jnp.square(scale)[..., None])

    share = profile.share[..., None]
    return jnp.diff(share * inside(profile.core) + (1 - share) * inside(profile.tail), axis=-1)


def poisson(uniform: jax.Array, mean: jax.Array) -> jax.Array:
    """Poisson numbers of ``mean`` from uniform numbers in (0, 1], at fixed cost; any shape.

    Up to a mean of 10 by inversion: N > k where the uniform number is at most P(N > k). Above by
    the first terms of the Cornish-Fisher expansion, mean + sqrt(mean) z + (z^2 - 1) / 6, rounded.
    """
    small = jnp.minimum(mean, 10.0)
    # P(N > 32) is 1e-8 at a mean of 10, less than the smallest float32 uniform number.
    terms = [jnp.exp(-small)]
    for k in range(1, 33):
        terms.append(terms[-1] * small / k)
    # Summed from the far end: 1 - P(N <= k) would round away the probabilities of rare counts.
    above, count = jnp.zeros_like(small), jnp.zeros_like(small)
    for term in reversed(terms[1:]):
        above = above + term
        count = count + (uniform <= above)
    z = -ndtri(jnp.minimum(uniform, 1 - 1e-7))
    large = jnp.round(mean + jnp.sqrt(mean) * z + (jnp.square(z) - 1) / 6)
    return jnp.where(mean > 10.0, jnp.maximum(large, 0.0), count)


def deposits(key: jax.Array, mean: jax.Array, quantum: float) -> jax.Array:
    """Visible energies that fluctuate about ``mean`` [v] MeV as a sum of quanta.

    The number of quanta N is Poisson of mean / quantum; the sum of N quanta, each of relative
    variance c = QUANTUM_VARIANCE, is drawn from the log-normal with that sum's mean N * quantum
    and relative variance c / N (Fenton and Wilkinson's approximation, exact in both moments).
    """
    key_count, key_size = jax.random.split(key)
    # `uniform` draws from [0, 1); its complement is never 0, which would be infinitely many quanta.
    uniform = 1 - jax.random.uniform(key_count, mean.shape, mean.dtype)
    count = poisson(uniform, mean / quantum)
    variance = jnp.log1p(QUANTUM_VARIANCE / jnp.maximum(count, 1.0))
    normal = jax.random.normal(key_size, mean.shape, mean.dtype)
    return count * quantum * jnp.exp(jnp.sqrt(variance) * normal - variance / 2)


def _electron_rings(
    energies: jax.Array, normals: jax.Array, start: jax.Array | float, detector: Detector
) -> jax.Array:
    """Mean energy in each ring, [n] MeV and [n, 2] normal numbers -> [n, l, r] MeV."""
    grid = _grid(detector)
    profile = longitudinal(energies, normals, detector.medium, start)
    middle = jnp.asarray((grid.slice_edges[:-1] + grid.slice_edges[1:]) / 2)
    tau = (middle - profile.start[:, None]) / profile.maximum[:, None]
    along = energies[:, None] * slice_fractions(profile, jnp.asarray(grid.slice_edges))
    across = ring_fractions(radial(tau, energies, detector.medium), jnp.asarray(grid.r_edges))
    return jnp.einsum("ns,nsr,sl->nlr", along, across, grid.slice_layer)


def _photon_rings(
    energies: jax.Array, normals: jax.Array, depth: jax.Array, detector: Detector
) -> jax.Array:
    """Like `_electron_rings`: a pair of half the energy each, after ``depth`` [n] mean free paths.

    The mean free path for pair production is 9/7 X0.
    """
    start = 9 / 7 * detector.medium.radiation_length * depth
    return 2 * _electron_rings(energies / 2, normals, start, detector)


def _pion_rings(
    energies: jax.Array, normals: jax.Array, depth: jax.Array, detector: Detector
) -> jax.Array:
    """Like `_electron_rings`, for a charged pion that interacts after ``depth`` [n] lambda.

    A SIMPLE model that is not fitted to data. Its parts: the start is exponential in interaction
    lengths; a fluctuating electromagnetic fraction of mean 1 - (E/GeV)^(0.82-1) (D. Groom, NIM A
    572 (2007) 633) makes an electromagnetic shower there; the rest follows the longitudinal profile
    of R. Bock et al. (NIM 186 (1981) 533) in interaction lengths and a single wide radial profile,
    with h/e = 0.7. Not modelled: nuclear binding and single neutrons, several separate pi0,
    secondary interactions, the track before the start.
    """
    grid, medium = _grid(detector), detector.medium
    ln_e = jnp.maximum(jnp.log(energies / GEV), 0.0)
    start = medium.interaction_length * depth

    mean = jnp.clip(1 - jnp.exp((0.82 - 1) * ln_e), 0.05, 0.95)
    # Logistic-normal, so between 0 and 1; the spread is about 0.2 at 10 GeV and 0.14 at 1 TeV.
    spread = 1.2 / jnp.sqrt(1 + 0.3 * ln_e)
    fraction = jax.nn.sigmoid(jnp.log(mean / (1 - mean)) + spread * normals[:, 2])
    electromagnetic = jnp.maximum(fraction * energies, medium.critical_energy)

    alpha = 0.6165 + 0.3183 * ln_e
    beta = (0.9099 - 0.0237 * ln_e) / medium.interaction_length
    along = slice_fractions(Profile(start, alpha, beta), jnp.asarray(grid.slice_edges))
    square = jnp.square(grid.r_edges)
    across = jnp.diff(square / (square + (_HADRON_WIDTH * medium.interaction_length) ** 2))
    hadronic = _HADRON_RESPONSE * jnp.maximum(energies - electromagnetic, 0.0)
    return _electron_rings(electromagnetic, normals, start, detector) + jnp.einsum(
        "n,ns,sr,sl->nlr", hadronic, along, across, grid.slice_layer
    )


_RINGS = {"electron": _electron_rings, "photon": _photon_rings, "hadron": _pion_rings}
# Range in MeV for detectors without one, that of dataset 2.
_TYPICAL_RANGE = (1e3, 1e6)


def visible_fraction(detector: Detector) -> jax.Array:
    """Ratio of visible to deposited energy for which E_sum / E_inc of an electron is ``response``.

    The parametrisation leaks at the sides and at the back, and measured responses include leakage;
    so it is divided out for the typical shower in the middle of the energy range (geometric mean).
    Other showers keep their leakage relative to it, and pions their smaller response. The ratio is
    at most 1, so a stack that is too thin for ``response`` loses what leaks out.
    """
    middle = math.sqrt(math.prod(detector.energy_range or _TYPICAL_RANGE))
    energy = jnp.full((1,), middle, jnp.float32)
    rings = _electron_rings(energy, jnp.zeros((1, 2), jnp.float32), 0.0, detector)
    return jnp.minimum(detector.medium.response * energy[0] / jnp.sum(rings), 1.0)


def quantum(medium: Medium) -> float:
    """Mean visible energy of a quantum in MeV.

    N quanta of mean q and relative variance c have (sigma / E_sum)^2 = (1 + c) / N with
    N = response E / q; that is resolution^2 GeV / E for q = response resolution^2 GeV / (1 + c).
    """
    return medium.response * medium.resolution**2 * GEV / (1 + QUANTUM_VARIANCE)


def displacement(energies: jax.Array, normals: jax.Array, medium: Medium) -> jax.Array:
    """Lateral displacement of whole showers in mm: [n] MeV and normals [n, 2] -> [n, 2].

    Not part of GP, where only the number of spots moves the centre of a shower. The first tracks
    scatter, so the centre fluctuates more than that of independent quanta, as 1/sqrt(E). At most
    0.4 R, so that the first-order factors 1 - d 4r/(r^2+R^2) of `_Grid.voxel_slope` stay above 0.2.
    """
    shift = _DISPLACEMENT * medium.moliere_radius * normals / jnp.sqrt(energies / GEV)[:, None]
    length = jnp.linalg.norm(shift, axis=1, keepdims=True)
    longest = 0.4 * _DISPLACED_SCALE * medium.moliere_radius
    return shift * jnp.minimum(1.0, longest / jnp.maximum(length, 1e-9))


@functools.partial(jax.jit, static_argnames="detector")
def simulate(keys: jax.Array, energies: jax.Array, detector: Detector) -> jax.Array:
    """Showers [n, v] in MeV, float32, of typed keys [n] and incident energies [n] in MeV.

    Shower i depends on key i and energy i alone. Voxels below the readout threshold are zero.
    """
    if detector.shower == "none":
        raise CalojaxError(
            f"There is no parametrisation of {detector.particle} showers; use another particle."
        )
    energies = jnp.asarray(energies, jnp.float32)
    grid = _grid(detector)
    normals = rng.normal(rng.streams(keys, "profile"), (7,))
    # Half the squared length of two normal numbers is exponential.
    depth = jnp.sum(jnp.square(normals[:, 5:]), axis=1) / 2
    rings = _RINGS[detector.shower](energies, normals[:, :3], depth, detector)
    rings = rings * visible_fraction(detector)
    mean = rings.reshape(len(energies), -1)[:, grid.voxel_ring] * grid.voxel_share
    mean = mean * (1 + displacement(energies, normals[:, 3:5], detector.medium) @ grid.voxel_slope)
    showers = jax.vmap(deposits, (0, 0, None))(
        rng.streams(keys, "deposits"), mean, quantum(detector.medium)
    )
    return jnp.where(showers >= detector.readout_threshold, showers, 0.0)
