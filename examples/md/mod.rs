//! What the drivers of molecular dynamics share. Units: Å, fs, amu, eV, K.

use std::path::Path;

use mlff::structure::{Vec3, symbol};
use mlff::xyz::Reader;
use mlff::{Error, Result, Structure};

/// Boltzmann constant, eV/K.
pub const BOLTZMANN: f64 = 8.617333262e-5;
/// Acceleration of 1 amu by 1 eV/Å, Å/fs².
pub const ACCELERATION: f64 = 0.009648533212331002;

/// Reads frame `index` (from 0) of an XYZ file.
pub fn read_frame(path: &Path, index: usize) -> Result<Structure> {
    let mut reader = Reader::open(path)?;
    for _ in 0..index {
        reader.skip_frame()?;
    }
    let frame = reader.next_frame()?;
    Ok(frame.ok_or_else(|| Error::Usage(format!("{} has no frame {index}", path.display())))?.structure)
}

/// Standard atomic weights.
pub fn masses(atomic_numbers: &[u8]) -> Result<Vec<f64>> {
    let mass = |&z: &u8| match z {
        1 => Ok(1.008),
        6 => Ok(12.011),
        7 => Ok(14.007),
        8 => Ok(15.999),
        9 => Ok(18.998),
        16 => Ok(32.06),
        17 => Ok(35.45),
        _ => Err(Error::Usage(format!("no mass for {} (Z = {z})", symbol(z).unwrap_or("an unknown element")))),
    };
    atomic_numbers.iter().map(mass).collect()
}

/// Velocities of temperature `kelvin` with no momentum in all.
pub fn maxwell_boltzmann(masses: &[f64], kelvin: f64, random: &mut Random) -> Vec<Vec3> {
    let spread = |m: f64| (BOLTZMANN * kelvin * ACCELERATION / m).sqrt();
    let mut velocities: Vec<Vec3> = masses.iter().map(|&m| [(); 3].map(|()| spread(m) * random.normal())).collect();
    let total: f64 = masses.iter().sum();
    for k in 0..3 {
        let drift = velocities.iter().zip(masses).map(|(v, m)| m * v[k]).sum::<f64>() / total;
        velocities.iter_mut().for_each(|v| v[k] -= drift);
    }
    velocities
}

/// Accelerates by the forces for a time `dt`.
pub fn kick(velocities: &mut [Vec3], forces: &[Vec3], masses: &[f64], dt: f64) {
    for ((v, f), m) in velocities.iter_mut().zip(forces).zip(masses) {
        *v = std::array::from_fn(|k| v[k] + dt * ACCELERATION * f[k] / m);
    }
}

/// Moves with the velocities for a time `dt`.
pub fn drift(positions: &mut [Vec3], velocities: &[Vec3], dt: f64) {
    for (r, v) in positions.iter_mut().zip(velocities) {
        *r = std::array::from_fn(|k| r[k] + dt * v[k]);
    }
}

/// Kinetic energy, eV.
pub fn kinetic_energy(velocities: &[Vec3], masses: &[f64]) -> f64 {
    let twice: f64 = velocities.iter().zip(masses).map(|(v, m)| m * v.iter().map(|x| x * x).sum::<f64>()).sum();
    0.5 * twice / ACCELERATION
}

/// Normal numbers of mean 0 and variance 1: SplitMix64 and Box and Muller's transform.
pub struct Random(pub u64);

impl Random {
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1.0 / (1u64 << 53) as f64
    }
}

/// Straight line through points by least squares.
#[derive(Default)]
pub struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Line {
    /// Takes a point: by Welford's recurrence, which does not lose small changes of a large energy.
    pub fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        let (dx, dy) = (x - self.x, y - self.y);
        self.x += dx / self.n;
        self.y += dy / self.n;
        self.xx += dx * (x - self.x);
        self.xy += dx * (y - self.y);
        self.yy += dy * (y - self.y);
    }

    /// Slope, and root mean square of the distance from the line.
    pub fn fit(&self) -> (f64, f64) {
        let slope = if self.xx > 0.0 { self.xy / self.xx } else { 0.0 };
        (slope, ((self.yy - slope * self.xy) / self.n).max(0.0).sqrt())
    }
}
