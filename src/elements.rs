//! The chemical elements by atomic number.

/// Chemical symbols by atomic number. Index 0 is no element and holds `X`.
pub const SYMBOLS: [&str; 119] = [
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc",
    "Lv", "Ts", "Og",
];

/// Chemical symbol of an atomic number; `None` outside 1..=118.
pub fn symbol(z: u8) -> Option<&'static str> {
    SYMBOLS.get(z as usize).copied().filter(|_| z != 0)
}

/// Atomic number of a chemical symbol. Case matters: `Cl`, neither `CL` nor `cl`. `None` if there is no such element.
pub fn atomic_number(symbol: &str) -> Option<u8> {
    let number = SYMBOLS.iter().position(|s| *s == symbol)?;
    u8::try_from(number).ok().filter(|&z| z > 0)
}

/// A hartree, eV; CODATA 2022.
pub(crate) const HARTREE: f64 = 27.211_386_245_981;

/// Total energy of a free atom, eV: Thomas, Fermi, Scott and Schwinger's expansion in the atomic number, within 8 % for hydrogen and 2 %
/// beyond helium.
pub(crate) fn atom_energy(z: u8) -> f64 {
    let z = f64::from(z);
    HARTREE * (-0.768_7 * z.powf(7.0 / 3.0) + 0.5 * z * z - 0.269_9 * z.powf(5.0 / 3.0))
}

/// Covalent radius, Å: B. Cordero et al., Dalton Trans. 2008, 2832, the larger where there are two (the sp³ one of carbon, high
/// spin of metals excepted); 1.6 beyond curium.
pub fn covalent_radius(z: u8) -> f64 {
    #[rustfmt::skip]
    const RADII: [u16; 97] = [
        0, 31, 28, 128, 96, 84, 76, 71, 66, 57, 58, 166, 141, 121, 111, 107, 105, 102, 106, 203, 176, 170, 160, 153, 139, 139,
        132, 126, 124, 132, 122, 122, 120, 119, 120, 120, 116, 220, 195, 190, 175, 164, 154, 147, 146, 142, 139, 145, 144, 142,
        139, 139, 138, 139, 140, 244, 215, 207, 204, 203, 201, 199, 198, 198, 196, 194, 192, 192, 189, 190, 187, 187, 175, 170,
        162, 151, 144, 141, 136, 136, 132, 145, 146, 148, 140, 150, 150, 260, 221, 215, 206, 200, 196, 190, 187, 180, 169,
    ];
    0.01 * f64::from(RADII.get(z as usize).copied().unwrap_or(160))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_cover_the_known_elements() {
        assert_eq!((symbol(1), symbol(6), symbol(118)), (Some("H"), Some("C"), Some("Og")));
        assert_eq!((symbol(0), symbol(119)), (None, None));
        assert!((1..=118).all(|z| symbol(z).and_then(atomic_number) == Some(z)));
        assert_eq!((atomic_number("X"), atomic_number("cl")), (None, None));
    }
}
