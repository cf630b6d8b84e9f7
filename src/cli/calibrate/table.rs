//! Measurements as a table for people.

use std::fmt::Write as _;

use mlff::calibration::{Calibration, Measurement, Point};

use crate::cli::seconds;

/// All measurements, by pattern and size.
pub fn table(calibration: &Calibration) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, calibration);
    out
}

fn write(out: &mut String, calibration: &Calibration) -> std::fmt::Result {
    let Some(Measurement { device, dtype, threads, .. }) = calibration.measurements.first() else { return Ok(()) };
    writeln!(
        out,
        "{}: {:.0} GFLOP/s in a matrix product, {:.1} GB/s in a copy; {}, threads: {threads}",
        device.name,
        device.peak_flops * 1e-9,
        device.peak_bytes_s * 1e-9,
        dtype.name()
    )?;
    writeln!(out, "forward and VJP; fused where the speed-up is {} and more\n", calibration.threshold)?;
    writeln!(
        out,
        "{:<26} {:>6} {:>5} {:>11} {:>11} {:>8} {:>17} {:>6} {:>15} {:>13} {:<20} runs",
        "pattern", "rows", "width", "unfused", "fused", "speed-up", "MB", "less", "GFLOP/s", "FLOP/byte", "limited by"
    )?;
    for measurement in &calibration.measurements {
        for point in &measurement.points {
            row(out, measurement.pattern.name(), point, calibration.threshold)?;
        }
    }
    Ok(())
}

fn row(out: &mut String, name: &str, point: &Point, threshold: f64) -> std::fmt::Result {
    let Point { unfused, fused, .. } = point;
    let both = |f: fn(f64) -> String, a: f64, b: f64| format!("{} → {}", f(a), f(b));
    let [before, after] = point.bounds().map(|bound| bound.name());
    writeln!(
        out,
        "{name:<26} {:>6} {:>5} {:>11} {:>11} {:>8.2} {:>17} {:>6.1} {:>15} {:>13} {:<20} {}",
        point.rows,
        point.width,
        seconds(unfused.seconds),
        seconds(fused.seconds),
        point.speedup,
        both(|x| format!("{:.2}", x * 1e-6), unfused.bytes, fused.bytes),
        point.memory_reduction,
        both(|x| format!("{:.1}", x * 1e-9), unfused.flops_s, fused.flops_s),
        both(|x| format!("{x:.1}"), unfused.roofline.intensity, fused.roofline.intensity),
        if before == after { before.into() } else { format!("{before} → {after}") },
        if point.speedup >= threshold { "fused" } else { "unfused" }
    )
}
