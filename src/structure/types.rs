//! Elements of atoms that a driver knows by integer types.

use crate::elements::{SYMBOLS, atomic_number, symbol};
use crate::error::{Error, Result};

/// Which element each integer atom type of a molecular dynamics driver stands for.
///
/// ```
/// use mlff::structure::ElementTypes;
///
/// // As in LAMMPS: types count from 1, and `pair_coeff * * O H` names their elements.
/// let types = ElementTypes::new(&["O", "H"])?;
/// assert_eq!(types.atomic_numbers(&[1, 2, 2])?, [8, 1, 1]);
/// assert_eq!(types.atomic_numbers(&[1, 3]).unwrap_err().code(), "unknown_type");
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementTypes {
    first: i64,
    atomic_numbers: Vec<u8>,
}

impl ElementTypes {
    /// The elements of types 1, 2, …, by chemical symbol. Several types may stand for the same element.
    ///
    /// # Errors
    /// `Error::Usage` for a string that is no chemical symbol.
    pub fn new<S: AsRef<str>>(symbols: &[S]) -> Result<Self> {
        let number = |s: &S| {
            let s = s.as_ref();
            atomic_number(s)
                .ok_or_else(|| Error::Usage(format!("{s:?} is no element, expected such as \"C\" or \"Cl\"")))
        };
        Ok(ElementTypes { first: 1, atomic_numbers: symbols.iter().map(number).collect::<Result<_>>()? })
    }

    /// The elements of types 1, 2, …, by atomic number.
    ///
    /// # Errors
    /// `Error::Usage` for a number outside 1..=118.
    pub fn of_atomic_numbers(atomic_numbers: &[u8]) -> Result<Self> {
        match atomic_numbers.iter().find(|&&z| symbol(z).is_none()) {
            Some(z) => Err(Error::Usage(format!("{z} is no atomic number, expected 1 to {}", SYMBOLS.len() - 1))),
            None => Ok(ElementTypes { first: 1, atomic_numbers: atomic_numbers.to_vec() }),
        }
    }

    /// The same elements, for types that are counted from `first` instead of 1.
    #[must_use]
    pub fn counted_from(mut self, first: i32) -> Self {
        self.first = first.into();
        self
    }

    /// Atomic numbers, `[n_atoms]`, of atoms with these `types`, `[n_atoms]`.
    ///
    /// # Errors
    /// `Error::UnknownType` for the first atom whose type stands for no element.
    pub fn atomic_numbers(&self, types: &[i32]) -> Result<Vec<u8>> {
        let number = |(atom, &found): (usize, &i32)| {
            let found = i64::from(found);
            let known = usize::try_from(found - self.first).ok().and_then(|k| self.atomic_numbers.get(k));
            let last = self.first + self.atomic_numbers.len() as i64 - 1;
            known.copied().ok_or(Error::UnknownType { found, atom, first: self.first, last })
        };
        types.iter().enumerate().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_elements_or_refused_by_atom() {
        let types = ElementTypes::new(&["C", "H", "H", "Cl"]).unwrap();
        assert_eq!(types.atomic_numbers(&[4, 1, 2, 3]).unwrap(), [17, 6, 1, 1]);
        assert_eq!(types.clone().counted_from(0).atomic_numbers(&[3, 0]).unwrap(), [17, 6]);
        assert_eq!(types, ElementTypes::of_atomic_numbers(&[6, 1, 1, 17]).unwrap());
        for (first, found) in [(1, 0), (1, 5), (1, i32::MIN), (1, i32::MAX), (0, 4), (0, -1), (i32::MAX, 0)] {
            let error = types.clone().counted_from(first).atomic_numbers(&[first, found]).unwrap_err();
            let (first, found) = (i64::from(first), i64::from(found));
            let expected = matches!(error, Error::UnknownType { found: f, atom: 1, first: a, last: b }
                if (f, a, b) == (found, first, first + 3));
            assert!(expected, "{error:?}");
        }
        assert!(ElementTypes::new(&["X"]).is_err() && ElementTypes::new(&["cl"]).is_err());
        assert!(ElementTypes::of_atomic_numbers(&[0]).is_err() && ElementTypes::of_atomic_numbers(&[119]).is_err());
        let none = ElementTypes::new::<&str>(&[]).unwrap().atomic_numbers(&[1]).unwrap_err();
        assert_eq!(none.to_string(), "atom 0 has type 1, but no elements were given for types");
    }
}
