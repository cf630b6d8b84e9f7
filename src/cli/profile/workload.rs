//! What is evaluated: frames of a file, or structures made up.

use std::path::Path;

use clap::ValueEnum;
use indicatif::ProgressBar;
use mlff::Want;
use mlff::structure::Vec3;
use mlff::xyz::Spares;
use mlff::{BatchSize, DeviceKind};
use mlff::{Error, Potential, Result, Structure};

use super::Args;
use crate::cli::reading::Reading;
use crate::cli::trajectory::{ChunkSize, Entry, FrameSlice, count_frames, evaluate, read_chunks};

/// Structures to evaluate.
pub struct Workload {
    pub name: String,
    pub structures: Vec<Structure>,
}

/// A molecule by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Molecule {
    /// H2O
    Water,
    /// CH4
    Methane,
    /// C6H6
    Benzene,
}

/// Structures of a workload unless said otherwise.
const STRUCTURES: usize = 64;

pub fn workload(args: &Args, potential: &Potential) -> Result<Workload> {
    let n = args.structures.map(|n| n as usize);
    if let Some(input) = &args.input {
        let structures = read(input, args.index, n.unwrap_or(STRUCTURES), potential)?;
        return Ok(Workload { name: input.display().to_string(), structures });
    }
    let mut random = Random(1);
    if let Some(n_atoms) = args.atoms {
        let species = &potential.model().config().species;
        let cluster = |_| cluster(n_atoms as usize, species, &mut random);
        let structures = (0..n.unwrap_or(1)).map(cluster).collect::<Result<_>>()?;
        return Ok(Workload { name: format!("clusters of {n_atoms} atoms"), structures });
    }
    let molecule = args.molecule.unwrap_or(Molecule::Benzene);
    let copies = (0..n.unwrap_or(STRUCTURES)).map(|_| molecule.distorted(&mut random)).collect::<Result<_>>()?;
    let name = molecule.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
    Ok(Workload { name, structures: copies })
}

/// Structures of a file, each of which can be evaluated: evenly spaced, or the first ones of `index`.
fn read(input: &Path, index: Option<FrameSlice>, n: usize, potential: &Potential) -> Result<Vec<Structure>> {
    let slice = match index {
        Some(slice) => slice,
        None if input.is_file() => {
            let n_frames = usize::try_from(count_frames(input)?).unwrap_or(0);
            FrameSlice::Range { start: None, stop: None, step: n_frames.div_ceil(n).max(1) }
        }
        None => FrameSlice::Range { start: None, stop: None, step: 1 },
    };
    let size = ChunkSize::new(BatchSize::Auto, &[input.into()], DeviceKind::Cpu);
    let (mut entries, mut end): (Vec<Entry>, Option<Error>) = (Vec::new(), None);
    read_chunks(
        &[input.into()],
        slice,
        size,
        Reading::default(),
        &ProgressBar::hidden(),
        &Spares::default(),
        &mut |chunk| {
            entries.extend(chunk.entries);
            end = chunk.end;
            entries.len() < n
        },
    );
    entries.truncate(n);
    if let Some(error) = end.filter(|_| entries.len() < n) {
        return Err(error);
    }
    if entries.is_empty() {
        return Err(Error::Usage(format!("{}: found no frame to profile, expected at least one", input.display())));
    }
    let structure = |done: crate::cli::trajectory::Evaluated| {
        done.outcome?;
        match done.entry {
            Entry::Frame(frame, _) => Ok(frame.structure),
            Entry::Bad(bad) => Err(bad.error),
        }
    };
    evaluate(potential, entries, Want::ENERGY).into_iter().map(structure).collect()
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// Between -1 and 1.
    fn next(&mut self) -> f64 {
        // Source: D. Knuth, MMIX: multiplier and increment.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn moved(&mut self, r: Vec3, by: f64) -> Vec3 {
        r.map(|x| x + by * self.next())
    }
}

impl Molecule {
    /// Experimental geometry, Å.
    fn atoms(self) -> (Vec<u8>, Vec<Vec3>) {
        match self {
            Molecule::Water => (vec![8, 1, 1], vec![[0.0, 0.0, 0.117], [0.0, 0.757, -0.470], [0.0, -0.757, -0.470]]),
            Molecule::Methane => {
                let x = 0.6276;
                let corners = [[x, x, x], [x, -x, -x], [-x, x, -x], [-x, -x, x]];
                (vec![6, 1, 1, 1, 1], [[0.0; 3]].into_iter().chain(corners).collect())
            }
            Molecule::Benzene => {
                let ring = |radius: f64| {
                    let angles = (0..6).map(|k| f64::from(k) * std::f64::consts::FRAC_PI_3);
                    angles.map(move |a| [radius * a.cos(), radius * a.sin(), 0.0])
                };
                ([[6; 6], [1; 6]].concat(), ring(1.397).chain(ring(2.481)).collect())
            }
        }
    }

    /// A copy whose atoms are moved by up to 0.05 Å in each direction.
    fn distorted(self, random: &mut Random) -> Result<Structure> {
        let (numbers, positions) = self.atoms();
        Structure::molecule(numbers, positions.into_iter().map(|r| random.moved(r, 0.05)).collect())
    }
}

/// Atoms on a cubic lattice of 2.15 Å, 0.1 of them a cubic ångström as in organic liquids, moved by up to 0.4 Å.
fn cluster(n_atoms: usize, species: &[u8], random: &mut Random) -> Result<Structure> {
    const SPACING: f64 = 2.15;
    let mut side = 1;
    while side * side * side < n_atoms {
        side += 1;
    }
    let site = |k: usize| [k % side, k / side % side, k / (side * side)].map(|x| SPACING * x as f64);
    let positions = (0..n_atoms).map(|k| random.moved(site(k), 0.4)).collect();
    let numbers = (0..n_atoms).map(|k| species[k % species.len()]).collect();
    Structure::molecule(numbers, positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_structures_can_be_evaluated() {
        let potential = Potential::load(mlff::model::default_name()).unwrap();
        let mut random = Random(1);
        let mut structures: Vec<Structure> =
            Molecule::value_variants().iter().map(|m| m.distorted(&mut random).unwrap()).collect();
        structures.extend([1, 7, 100].map(|n| cluster(n, &potential.model().config().species, &mut random).unwrap()));
        assert_eq!(structures.iter().map(Structure::n_atoms).collect::<Vec<_>>(), [3, 5, 12, 1, 7, 100]);
        assert!(potential.evaluate(&structures, Want::ALL).iter().all(Result::is_ok));
    }
}
