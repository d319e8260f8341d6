"""A Geant4 job in Python whose electrons become showers of a calojax model at the calorimeter.

    python examples/geant4/job.py --out hits.hdf5 --picture geant4.png

The calorimeter is that of Geant4's example Par04, which the showers in examples/ come from: 90
cylinders of 1.4 mm tungsten and 0.3 mm silicon from a radius of 800 mm. Geant4 brings each electron
to its face, where a stepping action ends the track. At the end of an event one call of the
generator makes the showers of all its electrons.
"""

import math
import os
import pathlib
import sys
import tempfile

import numpy as np
import tyro

# Geant4 reads a table of nuclear levels even where nothing decays; and without this variable
# geant4_pybind asks on standard input whether to download all data sets. Transport needs none.
if "GEANT4_DATA_DIR" not in os.environ:
    _empty = tempfile.TemporaryDirectory()
    pathlib.Path(_empty.name, "ENSDFSTATE.dat").touch()
    os.environ |= {"GEANT4_DATA_DIR": _empty.name, "G4ENSDFSTATEDATA": _empty.name}

import geant4_pybind as g4
import tracks

import calojax
from calojax import files
from calojax.sampling.incident_energies import EnergySource, energy_source

RADIUS, HALF_LENGTH = 800 * g4.mm, 1 * g4.m
LAYERS = 90
LAYER = (("absorber", 1.4 * g4.mm, "G4_W"), ("sensor", 0.3 * g4.mm, "G4_Si"))


class Calorimeter(g4.G4VUserDetectorConstruction):
    """The cylinders in a vacuum, in a magnetic field along the axis."""

    def __init__(self, field: float):
        super().__init__()
        self.field = g4.G4ThreeVector(0, 0, field * g4.tesla)

    def Construct(self) -> g4.G4VPhysicalVolume:
        material = g4.G4NistManager.Instance().FindOrBuildMaterial
        box = g4.G4Box("world", 2 * g4.m, 2 * g4.m, 2 * g4.m)
        world = g4.G4LogicalVolume(box, material("G4_Galactic"), "world")
        inner = RADIUS
        for layer in range(LAYERS):
            for name, thickness, element in LAYER:
                tube = g4.G4Tubs(name, inner, inner + thickness, HALF_LENGTH, 0, 2 * math.pi)
                volume = g4.G4LogicalVolume(tube, material(element), name)
                g4.G4PVPlacement(None, g4.G4ThreeVector(), volume, name, world, False, layer)
                inner += thickness
        return g4.G4PVPlacement(None, g4.G4ThreeVector(), world, "world", None, False, 0)

    def ConstructSDandField(self) -> None:
        self.messenger = g4.G4GlobalMagFieldMessenger(self.field)


class Particles(g4.G4VPhysicsConstructor):
    """Particles without any process: a physics list of transport alone."""

    def ConstructParticle(self) -> None:
        for particle in (g4.G4Electron, g4.G4Positron, g4.G4Gamma, g4.G4Proton):
            particle.Definition()

    def ConstructProcess(self) -> None:
        pass


class Physics(g4.G4VModularPhysicsList):
    """Transport alone, which needs none of Geant4's data sets."""

    def __init__(self):
        super().__init__()
        self.RegisterPhysics(Particles("particles"))


class Gun(g4.G4VUserPrimaryGeneratorAction):
    """Electrons from the origin; those of event n depend on the seed and on n only."""

    def __init__(self, energies: EnergySource, count: int, theta: tuple[float, float], seed: int):
        super().__init__()
        self.energies, self.count, self.theta, self.seed = energies, count, theta, seed
        self.gun = g4.G4ParticleGun(g4.G4Electron.Definition())

    def GeneratePrimaries(self, event: g4.G4Event) -> None:
        number = event.GetEventID()
        random = np.random.default_rng((self.seed, number))
        for energy in self.energies[number * self.count : (number + 1) * self.count]:
            theta = math.radians(random.uniform(*self.theta))
            direction = g4.G4ThreeVector()
            direction.setRThetaPhi(1, theta, random.uniform(-math.pi, math.pi))
            self.gun.SetParticleEnergy(float(energy) * g4.MeV)
            self.gun.SetParticleMomentumDirection(direction)
            self.gun.GeneratePrimaryVertex(event)


class Face(g4.G4UserSteppingAction):
    """Ends electrons at the face of the calorimeter, and notes energy, position and direction.

    Those outside of the range that the model was trained on go on as Geant4 does it.
    """

    def __init__(self, energy_range: tuple[float, float]):
        super().__init__()
        self.low, self.high = energy_range
        self.found: list[tuple[float, tuple, tuple]] = []

    def UserSteppingAction(self, step: g4.G4Step) -> None:
        track = step.GetTrack()
        into, energy = track.GetNextVolume(), track.GetKineticEnergy()
        if (
            into is not None
            and (into.GetName(), into.GetCopyNo()) == ("absorber", 0)
            and track.GetVolume().GetName() == "world"
            and track.GetDefinition().GetParticleName() == "e-"
            and self.low <= energy <= self.high
        ):
            here, to = track.GetPosition(), track.GetMomentumDirection()
            self.found.append((energy, (here.x, here.y, here.z), (to.x, to.y, to.z)))
            track.SetTrackStatus(g4.fStopAndKill)


class Showers(g4.G4UserEventAction):
    """Makes the showers of all electrons that came to the face in an event."""

    def __init__(self, generator: calojax.Generator, face: Face):
        super().__init__()
        self.generator, self.face = generator, face
        self.events: list[tuple[tracks.Electrons, tracks.Hits]] = []

    def BeginOfEventAction(self, event: g4.G4Event) -> None:
        self.face.found.clear()

    def EndOfEventAction(self, event: g4.G4Event) -> None:
        if found := self.face.found:
            numbers = np.full(len(found), event.GetEventID())
            electrons = tracks.Electrons(numbers, *map(np.array, zip(*found, strict=True)))
            self.events.append((electrons, tracks.shower(self.generator, electrons)))


class Actions(g4.G4VUserActionInitialization):
    """The user actions of the job."""

    def __init__(self, *actions):
        super().__init__()
        self.actions = actions

    def Build(self) -> None:
        for action in self.actions:
            self.SetUserAction(action)


def job(
    out: pathlib.Path,
    run: str = "calovq-ds2",
    energies: str = str(pathlib.Path(__file__).parents[1] / "geant4_ds2_test.hdf5"),
    num: int | None = None,
    electrons: int = 4,
    theta: tuple[float, float] = (60.0, 120.0),
    field: float = 0.0,
    seed: int = 0,
    picture: pathlib.Path | None = None,
    force: bool = False,
) -> None:
    """Shoots electrons at the calorimeter and writes the hits of their showers.

    Args:
      out: HDF5 file of electrons and hits to write.
      run: trained model: a run folder, or the name of a model that comes with calojax.
      energies: energies of the electrons, as for ``calojax sample``: a file, a list such as
        5GeV,20GeV, uniform:1GeV:10GeV or log-uniform:1GeV:64GeV.
      num: number of electrons; needed unless --energies is a file or a list.
      electrons: number of electrons in an event.
      theta: lowest and highest polar angle in degrees; 90 is normal incidence.
      field: magnetic field along the axis in tesla.
      seed: seed of directions, random energies and showers.
      picture: picture to draw, of the hits and the showers of the file that --energies names.
      force: replace --out if it exists.
    """
    if electrons < 1:
        raise calojax.CalojaxError(f"--electrons must be at least 1, got {electrons}.")
    files.check_output(out, force=force, inputs=[energies])
    files.make_folder(out.parent)
    full = calojax.open_showers(energies) if picture else None
    # One size: the same program runs, however many electrons come to the face.
    generator = calojax.Generator(run, seed=seed, sizes=(electrons,))
    trained = generator.trained.progress.energy_range
    source = energy_source(energies, generator.detector, num=num, seed=seed, trained=trained)

    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.SerialOnly)
    manager.SetUserInitialization(Calorimeter(field))
    manager.SetUserInitialization(Physics())
    # Geant4 refuses user actions that are made before it has a physics list.
    face = Face(trained)
    showers = Showers(generator, face)
    manager.SetUserInitialization(Actions(Gun(source, electrons, theta, seed), face, showers))
    manager.Initialize()
    manager.BeamOn(math.ceil(len(source) / electrons))

    if not showers.events:
        raise calojax.CalojaxError(
            "No electron of {:g} to {:g} MeV, the energies of the training, came to the "
            "calorimeter; change --energies, --theta or --field.".format(*trained)
        )
    entered, hits = tracks.join(showers.events)
    tracks.write(out, entered, hits)
    print(f"{len(source)} electrons shot; {tracks.summary(entered, hits)}")
    if full and picture:
        from comparison import draw  # It needs matplotlib.

        draw(picture, entered, hits, full)


if __name__ == "__main__":
    try:
        tyro.cli(job)
    except calojax.CalojaxError as error:
        sys.exit(f"error: {error}")
