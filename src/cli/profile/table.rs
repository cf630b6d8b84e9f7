//! The profile as a table for people.

use std::fmt::Write as _;

use mlff::profile::{ComponentReport, Profile};

use crate::cli::seconds;

/// Components whose `id` is to be shown, layers below their component.
pub fn table(profile: &Profile, shown: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, profile, shown);
    out
}

fn write(out: &mut String, profile: &Profile, shown: impl Fn(&str) -> bool) -> std::fmt::Result {
    let Profile { workload, run, device, derived, total, .. } = profile;
    let batch = run.batch.map_or_else(|| "chosen by the engine".into(), |n| format!("{n} structures"));
    writeln!(
        out,
        "{}: {} structures, {} atoms, {} edges; {} in {}, {} engine, 1 thread, batches: {batch}",
        workload.name, workload.structures, workload.atoms, workload.edges, profile.model, workload.dtype, run.engine
    )?;
    writeln!(
        out,
        "{}: {:.0} GFLOP/s in a matrix product, {:.1} GB/s in a copy\n",
        device.name,
        device.peak_flops * 1e-9,
        device.peak_bytes_s * 1e-9
    )?;
    if run.timer == "cuda_events" {
        writeln!(
            out,
            "by events on the GPU's stream: its work in a component, and its waits for the thread in that component\n"
        )?;
    }
    writeln!(
        out,
        "{:<24} {:>7} {:>12} {:>12} {:>7} {:>9} {:>8} {:>8} {:>9}",
        "energy and forces", "calls", "median", "p95", "share", "MFLOP", "MB", "unfused", "roofline"
    )?;
    for component in profile.components.iter().filter(|c| shown(&c.id)) {
        row(out, component)?;
    }
    writeln!(
        out,
        "{:<24} {:>7} {:>12} {:>12} {:>6.1}%",
        "unattributed",
        "",
        "",
        "",
        100.0 * derived.unattributed_share
    )?;
    writeln!(out, "{:<24} {:>7} {:>12} {:>12} {:>6.1}%", "all", "", seconds(total.median), seconds(total.p95), 100.0)?;
    writeln!(out)?;
    writeln!(
        out,
        "energy alone {}, energy and forces {}: {:.0} structures/s, {:.0} atoms/s",
        seconds(derived.energy_median).trim(),
        seconds(derived.energy_and_forces_median).trim(),
        derived.structures_per_s,
        derived.atoms_per_s
    )?;
    let name = if run.engine == "autograd" { "autograd" } else { "the adjoint" };
    writeln!(out, "{name} (backward): {:.1} % of energy and forces", 100.0 * derived.autograd_share)?;
    let profiler = run.profiler;
    writeln!(
        out,
        "profiler: {} {} of {:.0} ns, {:.2} % of the time; sum of the components {:.3} of the same work without it",
        profiler.boundaries,
        if run.timer == "cuda_events" { "events" } else { "readings of the clock" },
        profiler.seconds_per_boundary * 1e9,
        100.0 * profiler.share,
        profiler.sum_over_unprofiled
    )?;
    if !derived.sweep.is_empty() {
        writeln!(out, "\n{:>7} {:>16} {:>9}", "batch", "time a structure", "speed-up")?;
        for point in &derived.sweep {
            writeln!(out, "{:>7} {:>16} {:>9.2}", point.batch, seconds(point.time_per_structure), point.speedup)?;
        }
    }
    Ok(())
}

fn row(out: &mut String, component: &ComponentReport) -> std::fmt::Result {
    let mut name = match &component.parent {
        Some(_) => format!("  {}", component.id),
        None => component.id.clone(),
    };
    if !component.fused.is_empty() && component.parent.is_none() {
        name += " *";
    }
    let mega = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{:.2}", x * 1e-6));
    let roofline =
        component.roofline.map_or_else(String::new, |r| format!("{:.0}% {}", 100.0 * r.fraction, &r.bound.name()[..3]));
    // Fused is the rule.
    let variant = component.variant.filter(|&variant| variant != "fused").unwrap_or_default();
    let line = format!(
        "{name:<24} {:>7} {:>12} {:>12} {:>6.1}% {:>9} {:>8} {:>8} {roofline:>9} {variant}",
        component.calls,
        seconds(component.time.median),
        seconds(component.time.p95),
        100.0 * component.share,
        mega(component.flops),
        mega(component.bytes),
        mega(component.unfused_bytes),
    );
    writeln!(out, "{}", line.trim_end())
}
