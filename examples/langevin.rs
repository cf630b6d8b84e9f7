//! Molecular dynamics at constant temperature by BAOAB. Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34.
//!
//! Conserved is the total energy less the heat that the bath has given; its drift judges time step and forces.
//!
//! ```sh
//! cargo run --release --example langevin -- examples/data/trajectory.xyz --frame 100 --ps 20
//! cargo run --release --example langevin -- examples/data/trajectory.xyz --frame 100 --box   # 8 of them, periodic
//! ```

mod md;

use std::path::PathBuf;

use clap::Parser;
use mlff::xyz::formula;
use mlff::{Potential, Result, Structure};

#[derive(Parser)]
struct Args {
    /// XYZ file
    file: PathBuf,
    /// Frame of the file, from 0
    #[arg(long, default_value_t = 0)]
    frame: usize,
    /// Length of the simulation, ps
    #[arg(long, default_value_t = 20.0)]
    ps: f64,
    /// Time step, fs
    #[arg(long, default_value_t = 0.5)]
    dt: f64,
    /// Temperature of the bath, K
    #[arg(long, default_value_t = 300.0)]
    temperature: f64,
    /// Friction, 1/ps
    #[arg(long, default_value_t = 1.0)]
    friction: f64,
    /// Eight copies in a periodic box
    #[arg(long = "box")]
    in_box: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut structure = md::read_frame(&args.file, args.frame)?;
    if args.in_box {
        structure = lattice(&structure)?;
    }
    let masses = md::masses(&structure.atomic_numbers)?;
    let mut session = Potential::load(mlff::model::default_name())?.session(&structure)?;

    let (n_atoms, n_steps) = (structure.n_atoms(), (args.ps * 1000.0 / args.dt).round() as u64);
    let (mut positions, mut forces) = (structure.positions.clone(), vec![[0.0; 3]; n_atoms]);
    let mut random = md::Random(0);
    let mut velocities = md::maxwell_boltzmann(&masses, args.temperature, &mut random);
    session.compute(&positions, structure.cell.as_ref(), &mut forces)?;
    let damping = (-args.friction * args.dt / 1000.0).exp();

    println!("{}, {n_atoms} atoms, bath of {} K", formula(&structure.atomic_numbers), args.temperature);
    println!(" time (ps)   potential (eV)       total (eV)   conserved (eV)   mean T (K)");
    let (mut line, mut heat, mut kinetic_sum) = (md::Line::default(), 0.0, 0.0);
    for step in 1..=n_steps {
        md::kick(&mut velocities, &forces, &masses, 0.5 * args.dt);
        md::drift(&mut positions, &velocities, 0.5 * args.dt);
        let before = md::kinetic_energy(&velocities, &masses);
        for (v, m) in velocities.iter_mut().zip(&masses) {
            let spread = ((1.0 - damping * damping) * md::BOLTZMANN * args.temperature * md::ACCELERATION / m).sqrt();
            *v = v.map(|x| damping * x + spread * random.normal());
        }
        heat += md::kinetic_energy(&velocities, &masses) - before;
        md::drift(&mut positions, &velocities, 0.5 * args.dt);
        let potential = session.compute(&positions, None, &mut forces)?;
        md::kick(&mut velocities, &forces, &masses, 0.5 * args.dt);

        let (time, kinetic) = (step as f64 * args.dt / 1000.0, md::kinetic_energy(&velocities, &masses));
        let (total, conserved) = (potential + kinetic, potential + kinetic - heat);
        line.add(time, conserved);
        kinetic_sum += kinetic;
        if step % (n_steps / 20).max(1) == 0 {
            let mean = 2.0 * kinetic_sum / step as f64 / (3.0 * n_atoms as f64 * md::BOLTZMANN);
            println!("{time:10.3} {potential:16.6} {total:16.6} {conserved:16.6} {mean:12.1}");
        }
    }
    let (slope, rms) = line.fit();
    println!("drift of the conserved energy: {:+.1e} eV/atom/ps", slope / n_atoms as f64);
    println!("RMS around it: {:.1e} eV/atom", rms / n_atoms as f64);
    Ok(())
}

/// Eight copies of a molecule in a periodic box, 3.5 Å between them.
fn lattice(molecule: &Structure) -> Result<Structure> {
    let along = |k: usize| molecule.positions.iter().map(move |r| r[k]);
    let spacing = |k| along(k).fold(f64::MIN, f64::max) - along(k).fold(f64::MAX, f64::min) + 3.5;
    let [a, b, c] = [spacing(0), spacing(1), spacing(2)];
    let sites = (0..8).map(|i| [a * f64::from(i & 1), b * f64::from(i >> 1 & 1), c * f64::from(i >> 2)]);
    let positions = sites.flat_map(|s| molecule.positions.iter().map(move |r| [r[0] + s[0], r[1] + s[1], r[2] + s[2]]));
    let cell = [[2.0 * a, 0.0, 0.0], [0.0, 2.0 * b, 0.0], [0.0, 0.0, 2.0 * c]];
    Structure::new(molecule.atomic_numbers.repeat(8), positions.collect(), Some(cell), [true; 3])
}
