//! Units of what is imported: said by the user or the configuration, assumed otherwise, and doubted where energies of atoms
//! are those of another unit.

use std::collections::BTreeMap;

use super::ImportOptions;
use crate::elements::{HARTREE, atom_energy};
use crate::error::{Error, Result};
use crate::model::config::{Architecture, ModelConfig, RadialBasisKind};
use crate::model::weights::Weights;

/// Unit of the energies of an imported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnergyUnit {
    /// eV.
    ElectronVolt,
    /// 0.001 eV.
    MilliElectronVolt,
    /// kcal/mol; a calorie is 4.184 J.
    KcalPerMol,
    /// kJ/mol.
    KjPerMol,
    /// Hartree, 27.2 eV.
    Hartree,
}

impl EnergyUnit {
    /// All units.
    pub const ALL: [EnergyUnit; 5] = [
        EnergyUnit::ElectronVolt,
        EnergyUnit::KcalPerMol,
        EnergyUnit::KjPerMol,
        EnergyUnit::Hartree,
        EnergyUnit::MilliElectronVolt,
    ];

    /// Name in configurations, where case does not matter.
    pub fn name(self) -> &'static str {
        match self {
            EnergyUnit::ElectronVolt => "eV",
            EnergyUnit::MilliElectronVolt => "meV",
            EnergyUnit::KcalPerMol => "kcal/mol",
            EnergyUnit::KjPerMol => "kJ/mol",
            EnergyUnit::Hartree => "Hartree",
        }
    }

    /// In eV; CODATA 2022.
    fn in_ev(self) -> f64 {
        match self {
            EnergyUnit::ElectronVolt => 1.0,
            EnergyUnit::MilliElectronVolt => 1e-3,
            EnergyUnit::KcalPerMol => 4.184 / 96.485_332_123_310_02,
            EnergyUnit::KjPerMol => 1.0 / 96.485_332_123_310_02,
            EnergyUnit::Hartree => HARTREE,
        }
    }
}

/// Unit of the lengths of an imported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthUnit {
    /// Å.
    Angstrom,
    /// Bohr radius, 0.529 Å.
    Bohr,
    /// nm, 10 Å.
    Nanometer,
}

impl LengthUnit {
    /// All units.
    pub const ALL: [LengthUnit; 3] = [LengthUnit::Angstrom, LengthUnit::Bohr, LengthUnit::Nanometer];

    /// Name in configurations, where case does not matter.
    pub fn name(self) -> &'static str {
        match self {
            LengthUnit::Angstrom => "angstrom",
            LengthUnit::Bohr => "bohr",
            LengthUnit::Nanometer => "nm",
        }
    }

    /// In Å; CODATA 2022.
    fn in_angstrom(self) -> f64 {
        match self {
            LengthUnit::Angstrom => 1.0,
            LengthUnit::Bohr => 0.529_177_210_544,
            LengthUnit::Nanometer => 10.0,
        }
    }
}

/// A unit by its name, in any case.
fn named<U: Copy>(key: &str, all: &[U], name: fn(U) -> &'static str, text: &str) -> Result<U> {
    all.iter().copied().find(|&u| name(u).eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|&u| name(u)).collect();
        Error::Usage(format!("its configuration says {key} = {text:?}, expected one of {}", names.join(", ")))
    })
}

/// The unit to take: the user's, which must be the configuration's where that says one. `None` where nobody says any.
fn chosen<U: Copy + PartialEq>(
    key: &str,
    all: &[U],
    name: fn(U) -> &'static str,
    asked: Option<U>,
    configured: Option<&str>,
) -> Result<Option<U>> {
    let configured = configured.map(|text| named(key, all, name, text)).transpose()?;
    match (asked, configured) {
        (Some(a), Some(c)) if a != c => Err(Error::Usage(format!(
            "its configuration says {key} = {}, but {} was asked for: one of them is wrong",
            name(c),
            name(a)
        ))),
        (asked, configured) => Ok(asked.or(configured)),
    }
}

/// Brings a model, whose numbers are in the units of its training, to eV and Å. Says in `notes` what was assumed.
///
/// # Errors
/// `Error::Usage`: units that are unknown, contradict each other, or do not fit the energies of atoms.
pub(super) fn convert(
    config: &mut ModelConfig,
    weights: &mut Weights,
    options: &ImportOptions,
    [energy, length]: [Option<&str>; 2],
    notes: &mut Vec<String>,
) -> Result<()> {
    let energy = chosen("energy_unit", &EnergyUnit::ALL, EnergyUnit::name, options.energy_unit, energy)?;
    let length = chosen("length_unit", &LengthUnit::ALL, LengthUnit::name, options.length_unit, length)?;
    let mut assumed = Vec::new();
    if energy.is_none() {
        assumed.push("energies in eV (ImportOptions::energy_unit)");
    }
    if length.is_none() {
        assumed.push("lengths in angstrom (ImportOptions::length_unit)");
    }
    if !assumed.is_empty() {
        notes.push(format!("nothing says which units the model was trained in; assumed: {}", assumed.join(", ")));
    }
    if let Err(reason) = doubt(&config.atomic_energies, energy.unwrap_or(EnergyUnit::ElectronVolt)) {
        // Whoever says the unit knows better.
        match options.energy_unit {
            None => return Err(reason),
            Some(_) => notes.push(reason.to_string()),
        }
    }
    scale_energy(config, energy.map_or(1.0, EnergyUnit::in_ev));
    scale_length(config, weights, length.map_or(1.0, LengthUnit::in_angstrom))
}

fn scale_energy(config: &mut ModelConfig, factor: f64) {
    config.energy_scale *= factor;
    config.atomic_energies.values_mut().for_each(|e| *e *= factor);
}

fn scale_length(config: &mut ModelConfig, weights: &mut Weights, factor: f64) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    config.cutoff *= factor;
    if let Architecture::Distiller(distiller) = &mut config.architecture {
        distiller.direction_epsilon *= factor;
    }
    let mut multiply = |name: &str, by: f64| {
        let array = weights.0.get_mut(name).ok_or_else(|| Error::Usage(format!("tensor {name} is missing")))?;
        array.data.iter_mut().for_each(|x| *x *= by);
        Ok(())
    };
    match config.radial_basis().kind {
        RadialBasisKind::Gaussian => {
            multiply("radial_basis.centers", factor)?;
            multiply("radial_basis.widths", factor)
        }
        // sin(ω d)/d: ω is one over a length, and so is the function, which the filters take up.
        RadialBasisKind::Bessel => {
            multiply("radial_basis.frequencies", 1.0 / factor)?;
            multiply("filters.weight", factor)
        }
    }
}

/// How far energies of atoms may be from those below to count as those of a unit: methods differ by less.
const TOLERANCE: f64 = 0.1;

/// Refuses energies of atoms that are plainly those of another unit than the one that is taken for theirs.
///
/// Total energies of all electrons are known well enough to tell units apart; energies of valence electrons only or less a
/// common level are not, and pass.
fn doubt(atomic_energies: &BTreeMap<u8, f64>, unit: EnergyUnit) -> Result<()> {
    let fits = |unit: EnergyUnit| {
        let ratio = |(&z, &e): (&u8, &f64)| e * unit.in_ev() / atom_energy(z);
        let mut ratios: Vec<f64> = atomic_energies.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        // Most of them: a mean may be among them, and an element that was not trained.
        ratios.get(ratios.len() / 2).is_some_and(|r| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(r))
    };
    let Some(likely) = EnergyUnit::ALL.into_iter().find(|&other| fits(other)) else {
        return too_low(atomic_energies, unit);
    };
    if fits(unit) {
        return Ok(());
    }
    let (z, energy) = atomic_energies.last_key_value().map_or((0, 0.0), |(&z, &e)| (z, e));
    Err(Error::Usage(format!(
        "energies of atoms are taken as {}, but they are those of free atoms in {} ({}: {energy}): say ImportOptions::energy_unit {}",
        unit.name(),
        likely.name(),
        crate::structure::symbol(z).unwrap_or("?"),
        likely.name()
    )))
}

/// Refuses energies of atoms below those of all their electrons: no method gives that.
fn too_low(atomic_energies: &BTreeMap<u8, f64>, unit: EnergyUnit) -> Result<()> {
    // Means of a data set lie anywhere between those of its elements.
    let lowest = atomic_energies.keys().map(|&z| atom_energy(z)).fold(0.0, f64::min) * (1.0 + TOLERANCE) - 10.0;
    let is_possible = |unit: EnergyUnit| atomic_energies.values().all(|e| e * unit.in_ev() >= lowest);
    if is_possible(unit) {
        return Ok(());
    }
    let worst = atomic_energies.iter().min_by(|a, b| a.1.total_cmp(b.1)).map_or((0, 0.0), |(&z, &e)| (z, e));
    let likely: Vec<&str> = EnergyUnit::ALL.into_iter().filter(|&u| is_possible(u)).map(EnergyUnit::name).collect();
    Err(Error::Usage(format!(
        "an atom's energy (mean and atomic energies of its configuration) is {} {} for {}, lower than all its electrons have: \
         another unit, such as {}? Say ImportOptions::energy_unit",
        worst.1,
        unit.name(),
        crate::structure::symbol(worst.0).unwrap_or("?"),
        if likely.is_empty() { "none that is known here".into() } else { likely.join(" or ") }
    )))
}
