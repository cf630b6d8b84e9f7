//! Molecular dynamics at constant energy by velocity Verlet, and how well it keeps the energy.
//!
//! ```sh
//! cargo run --release --example nve -- examples/data/trajectory.xyz --frame 100 --ps 100 --dt 0.5
//! ```

mod md;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use mlff::Precision;
use mlff::xyz::formula;
use mlff::{Model, Potential, Result};

#[derive(Parser)]
struct Args {
    /// XYZ file
    file: PathBuf,
    /// Frame of the file, from 0
    #[arg(long, default_value_t = 0)]
    frame: usize,
    /// Length of the simulation, ps
    #[arg(long, default_value_t = 100.0)]
    ps: f64,
    /// Time step, fs
    #[arg(long, default_value_t = 0.5)]
    dt: f64,
    /// Temperature of the initial velocities, K
    #[arg(long, default_value_t = 300.0)]
    temperature: f64,
    /// Seed of the initial velocities
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Precision of the network
    #[arg(long, default_value = "f32", value_parser = ["f32", "f64"])]
    precision: String,
    /// Model directory, or name of a built-in model
    #[arg(long, default_value = mlff::model::default_name())]
    model: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let structure = md::read_frame(&args.file, args.frame)?;
    let masses = md::masses(&structure.atomic_numbers)?;
    // `Potential::load(&args.model)?` does where f32 will do.
    let precision = if args.precision == "f64" { Precision::F64 } else { Precision::F32 };
    let mut session =
        Potential::builder(Arc::new(Model::load(&args.model)?)).precision(precision).build()?.session(&structure)?;

    let (n_atoms, n_steps) = (structure.n_atoms(), (args.ps * 1000.0 / args.dt).round() as u64);
    let (mut positions, mut forces) = (structure.positions.clone(), vec![[0.0; 3]; n_atoms]);
    let mut velocities = md::maxwell_boltzmann(&masses, args.temperature, &mut md::Random(args.seed));
    let mut potential = session.compute(&positions, structure.cell.as_ref(), &mut forces)?;

    println!("{}, {n_atoms} atoms, {n_steps} steps of {} fs", formula(&structure.atomic_numbers), args.dt);
    println!(" time (ps)   potential (eV)  kinetic (eV)       total (eV)   T (K)");
    let (start, mut line) = (Instant::now(), md::Line::default());
    for step in 0..=n_steps {
        if step > 0 {
            md::kick(&mut velocities, &forces, &masses, 0.5 * args.dt);
            md::drift(&mut positions, &velocities, args.dt);
            // The cell has not changed since the last call.
            potential = session.compute(&positions, None, &mut forces)?;
            md::kick(&mut velocities, &forces, &masses, 0.5 * args.dt);
        }
        let (time, kinetic) = (step as f64 * args.dt / 1000.0, md::kinetic_energy(&velocities, &masses));
        let total = potential + kinetic;
        line.add(time, total);
        if step % (n_steps / 20).max(1) == 0 {
            // Three degrees of freedom less: the centre of mass is at rest.
            let temperature = 2.0 * kinetic / (md::BOLTZMANN * (3.0 * n_atoms as f64 - 3.0).max(1.0));
            println!("{time:10.3} {potential:16.6} {kinetic:13.6} {total:16.6} {temperature:7.1}");
        }
    }
    let (seconds, (slope, rms)) = (start.elapsed().as_secs_f64(), line.fit());
    println!("drift of the total energy: {:+.1e} eV/atom/ps", slope / n_atoms as f64);
    println!("RMS around it: {:.1e} eV/atom", rms / n_atoms as f64);
    println!("{:.0} steps/s, {} neighbour searches", n_steps as f64 / seconds, session.n_searches());
    Ok(())
}
