//! Cell and periodicity of a frame: `Lattice` and `pbc`, and cells under the names of other programs.

use super::comment::{Delimiter, Entry};
use super::frame::unique;
use super::number::{list_items, lossy, parse_logical, parse_reals};
use crate::structure::Mat3;

/// A cell, which directions are periodic, and what there is to say about it.
pub(crate) type CellAndPbc = (Option<Mat3>, [bool; 3], Vec<String>);

/// Reads `Lattice` and `pbc`, or what stands for them, into a cell and periodicity. `entries` belong to `comment`;
/// `given` is a cell that the comment has in yet another form.
pub(crate) fn cell_of(comment: &[u8], entries: &[Entry], given: Option<Mat3>) -> Result<CellAndPbc, String> {
    let lattice = unique(comment, entries, "Lattice")?;
    let pbc = unique(comment, entries, "pbc")?;
    let mut warnings = Vec::new();
    let mut cell = match lattice {
        None => None,
        Some(entry) => {
            let text = entry.value.clone().map_or(&[][..], |v| &comment[v]);
            let values = parse_reals(text)
                .map_err(|piece| format!("Lattice needs 9 numbers, but \"{piece}\" is not a number"))?;
            let Ok(v) = <[f64; 9]>::try_from(values.as_slice()) else {
                let hint = if entry.delimiter == Delimiter::None { "; put them in quotes" } else { "" };
                return Err(format!("Lattice needs 9 numbers, found {}: \"{}\"{hint}", values.len(), lossy(text)));
            };
            if let Some(bad) = v.iter().find(|x| !x.is_finite()) {
                return Err(format!("Lattice is not finite: {bad}"));
            }
            Some([[v[0], v[1], v[2]], [v[3], v[4], v[5]], [v[6], v[7], v[8]]])
        }
    };
    if given.is_some() && lattice.is_some() {
        return Err("the comment has a cell both as Lattice and as CELL(…), expected one of them".into());
    }
    // Nine zeros are how ASE and others write "no cell".
    cell = cell.or(given).filter(|rows| *rows != [[0.0; 3]; 3]);
    other_cells(comment, entries, &mut cell, lattice.is_some() || given.is_some(), &mut warnings)?;
    let pbc = match pbc {
        None => [cell.is_some(); 3],
        Some(entry) => {
            let text = entry.value.clone().map_or(&b"T"[..], |v| &comment[v]);
            if entry.unquoted_words {
                warnings.push(format!(
                    "pbc={} is not quoted; read as pbc=\"{}\", other programs see only the first",
                    lossy(text),
                    lossy(text)
                ));
            }
            parse_pbc(text)?
        }
    };
    for (direction, name) in ["a", "b", "c"].into_iter().enumerate() {
        match cell {
            _ if !pbc[direction] => {}
            None => {
                let lattice = if lattice.is_some() { "is all zeros" } else { "is missing" };
                return Err(format!("pbc is true, but Lattice {lattice}; periodic directions need lattice vectors"));
            }
            Some(rows) if rows[direction] == [0.0; 3] => {
                return Err(format!(
                    "lattice vector {name} is zero, but pbc is true along it (say pbc=\"…\" to change)"
                ));
            }
            Some(_) => {}
        }
    }
    Ok((cell, pbc, warnings))
}

fn parse_pbc(text: &[u8]) -> Result<[bool; 3], String> {
    let values: Option<Vec<bool>> = list_items(text).map(parse_logical).collect();
    match values.as_deref() {
        Some([all]) => Ok([*all; 3]),
        Some([a, b, c]) => Ok([*a, *b, *c]),
        _ => Err(format!("pbc needs one or three of T and F, found \"{}\"", lossy(text))),
    }
}

/// Names that other programs give a cell, in lower case and without `_` and `-`.
const CELL_NAMES: [&str; 29] = [
    "cell",
    "unitcell",
    "box",
    "simulationbox",
    "simbox",
    "cellvec",
    "cellvecs",
    "cellvector",
    "cellvectors",
    "latticevec",
    "latticevecs",
    "latticevector",
    "latticevectors",
    "boxvector",
    "boxvectors",
    "cellparameters",
    "cellparams",
    "cellpar",
    "latticeparameters",
    "latticeparams",
    "celllengths",
    "celllength",
    "boxsize",
    "boxlength",
    "boxlengths",
    "cellabc",
    "abc",
    "hmatrix",
    "cellmatrix",
];

/// Lower case without `_` and `-`, which is how much spellings of a key differ.
pub(crate) fn folded(key: &[u8]) -> Vec<u8> {
    key.iter().filter(|c| !matches!(c, b'_' | b'-')).map(u8::to_ascii_lowercase).collect()
}

/// Whether a key may name a cell, found quickly, or one of its six parameters.
fn may_be_cell(key: &[u8]) -> bool {
    match key {
        [c] => matches!(c | 0x20, b'a'..=b'c'),
        [c, ..] => matches!(c | 0x20, b'a' | b'b' | b'c' | b'g' | b'h' | b'l' | b's' | b'u'),
        [] => false,
    }
}

/// Takes a cell from an entry of another name where there is no `Lattice`, and says so, or says why not.
fn other_cells(
    comment: &[u8],
    entries: &[Entry],
    cell: &mut Option<Mat3>,
    has_lattice: bool,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let text_of = |e: &Entry| e.value.clone().map(|v| &comment[v]);
    let mut separate: [Option<f64>; 6] = [None; 6];
    // Whose cell it is.
    let mut source: Option<String> = has_lattice.then(|| "Lattice".into());
    for entry in entries.iter().filter(|e| e.value.is_some() && may_be_cell(&comment[e.key.clone()])) {
        let key = &comment[entry.key.clone()];
        let name = folded(key);
        let value = text_of(entry).unwrap_or_default();
        if let Some(k) = [&b"a"[..], b"b", b"c", b"alpha", b"beta", b"gamma"].iter().position(|n| *n == &name[..]) {
            separate[k] = parse_reals(value).ok().filter(|v| v.len() == 1).map(|v| v[0]);
            continue;
        }
        if !CELL_NAMES.iter().any(|n| n.as_bytes() == &name[..]) {
            continue;
        }
        let key = lossy(key);
        match parse_cell(value) {
            Ok(None) => {}
            Ok(Some(found)) => match &source {
                None => {
                    warnings.push(format!(
                        "{key}= is read as the cell, as Lattice would be: lattice vectors in Å, one after another"
                    ));
                    (*cell, source) = (Some(found), Some(key));
                }
                Some(from) if cell.is_none_or(|cell| !near(&cell, &found)) => {
                    // Two cells of one file: nobody can say which one its atoms are in.
                    if has_lattice {
                        warnings.push(format!("{key}= is another cell than Lattice and is not used"));
                    } else {
                        return Err(format!("{from}= and {key}= are different cells, expected Lattice=\"…\" alone"));
                    }
                }
                Some(_) => {}
            },
            Err(_) if source.is_some() => {}
            Err(reason) => warnings
                .push(format!("{key}= may be a cell, but {reason}: it is not used; say Lattice=\"nine numbers\"")),
        }
    }
    if source.is_none() && separate[..3].iter().all(Option::is_some) {
        let [a, b, c, alpha, beta, gamma] = separate;
        match (a, b, c, alpha, beta, gamma) {
            (Some(a), Some(b), Some(c), Some(alpha), Some(beta), Some(gamma)) => {
                match from_parameters([a, b, c], [alpha, beta, gamma]) {
                    Ok(found) => {
                        *cell = Some(found);
                        warnings
                            .push("a=, b=, c=, alpha=, beta=, gamma= are read as the cell, in Å and degrees".into());
                    }
                    Err(reason) => warnings.push(format!("a=, b=, c=, … may be a cell, but {reason}: it is not used")),
                }
            }
            _ => warnings.push(
                "a=, b= and c= without alpha=, beta= and gamma= may be a cell: not used; say Lattice=\"nine numbers\""
                    .into(),
            ),
        }
    }
    Ok(())
}

/// A cell from nine numbers (lattice vectors one after another), six (lengths and angles) or three (lengths); `None`
/// where all are zero.
fn parse_cell(text: &[u8]) -> Result<Option<Mat3>, String> {
    let values = parse_reals(text).map_err(|piece| format!("\"{piece}\" is not a number"))?;
    if let Some(bad) = values.iter().find(|x| !x.is_finite()) {
        return Err(format!("{bad} is not finite"));
    }
    if values.iter().all(|x| *x == 0.0) {
        return Ok(None);
    }
    match values[..] {
        [a, b, c, d, e, f, g, h, i] => Ok(Some([[a, b, c], [d, e, f], [g, h, i]])),
        [a, b, c] => from_parameters([a, b, c], [90.0; 3]).map(Some),
        [a, b, c, alpha, beta, gamma] => from_parameters([a, b, c], [alpha, beta, gamma]).map(Some),
        _ => Err(format!("it has {} numbers where 9, 6 or 3 are expected", values.len())),
    }
}

/// Lattice vectors from lengths and angles in degrees: the first along x, the second in the xy plane.
pub(crate) fn from_parameters(lengths: [f64; 3], angles: [f64; 3]) -> Result<Mat3, String> {
    let [a, b, c] = lengths;
    if lengths.iter().any(|x| *x <= 0.0 || !x.is_finite()) {
        return Err(format!("{a} {b} {c} are no lengths of a cell's vectors"));
    }
    // Rectangular cells without the rounding of cosines.
    let cosine = |angle: f64| if angle == 90.0 { 0.0 } else { angle.to_radians().cos() };
    let [alpha, beta, gamma] = angles.map(cosine);
    let sine = (1.0 - gamma * gamma).sqrt();
    let y = (alpha - beta * gamma) / sine;
    let z = 1.0 - beta * beta - y * y;
    // Angles between 10 and 170 degrees: what is outside is no cell, or other numbers than angles.
    if angles.iter().any(|x| !(10.0..=170.0).contains(x)) || z.is_nan() || z <= 0.0 {
        return Err(format!("{} {} {} are no angles of a cell, in degrees", angles[0], angles[1], angles[2]));
    }
    Ok([[a, 0.0, 0.0], [b * gamma, b * sine, 0.0], [c * beta, c * y, c * z.sqrt()]])
}

/// Equal to the digits that files have, or by lengths and angles.
fn near(a: &Mat3, b: &Mat3) -> bool {
    let gram = |m: &Mat3, i: usize, j: usize| crate::structure::dot(m[i], m[j]);
    let scale = (0..3).map(|i| gram(a, i, i)).fold(1e-12, f64::max);
    (0..3).all(|i| (0..=i).all(|j| (gram(a, i, j) - gram(b, i, j)).abs() < 1e-4 * scale))
}

#[cfg(test)]
mod tests {
    use super::super::comment::parse;
    use super::*;

    fn read(comment: &str) -> Result<CellAndPbc, String> {
        let entries = parse(comment.as_bytes(), Vec::new()).unwrap();
        cell_of(comment.as_bytes(), &entries.entries, None)
    }

    const BOX: Mat3 = [[9.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 7.0]];

    #[test]
    fn cell_of_other_names_is_read_and_said() {
        for comment in [
            "cell=\"9 0 0 0 8 0 0 0 7\"",
            "Cell=[[9,0,0],[0,8,0],[0,0,7]]",
            "unit_cell=\"9 8 7\"",
            "box=\"9.0 8.0 7.0 90 90 90\"",
            "cell_vec=\"9 0 0 0 8 0 0 0 7\"",
            "lattice_vectors=\"9 0 0 0 8 0 0 0 7\"",
            "cell_parameters=\"9 8 7 90 90 90\"",
            "a=9 b=8 c=7 alpha=90 beta=90 gamma=90",
        ] {
            let (cell, pbc, warnings) = read(comment).unwrap();
            assert_eq!((cell, pbc), (Some(BOX), [true; 3]), "{comment}");
            assert!(warnings.len() == 1 && warnings[0].contains("read as the cell"), "{comment}: {warnings:?}");
        }
        let (_, pbc, _) = read("cell=\"9 8 7\" pbc=\"T T F\"").unwrap();
        assert_eq!(pbc, [true, true, false]);
    }

    #[test]
    fn cell_that_is_not_plain_is_said_and_not_used() {
        for comment in ["cell=cubic x=1", "box=12", "box=\"0 9 0 9 0 9\"", "cell=\"9 nan 9\"", "a=1 b=2 c=3"] {
            let (cell, pbc, warnings) = read(comment).unwrap();
            assert_eq!((cell, pbc), (None, [false; 3]), "{comment}");
            assert!(warnings.len() == 1 && warnings[0].contains("not used"), "{comment}: {warnings:?}");
        }
        for comment in ["cell=\"0 0 0\"", "a=1 b=2", "cellular=yes", "beta=0.5 label=\"1 2 3\"", "charge=1"] {
            assert_eq!(read(comment).unwrap(), (None, [false; 3], vec![]), "{comment}");
        }
    }

    #[test]
    fn cell_beside_lattice_is_compared() {
        let lattice = "Lattice=\"9 0 0 0 8 0 0 0 7\"";
        for same in ["cell=\"9 0 0 0 8 0 0 0 7\"", "box=\"9 8 7\"", "cell=\"9.00001 8 7 90 90 90\"", "cell=cubic"] {
            assert_eq!(read(&format!("{lattice} {same}")).unwrap(), (Some(BOX), [true; 3], vec![]), "{same}");
        }
        let (cell, _, warnings) = read(&format!("{lattice} cell=\"9 9 9\"")).unwrap();
        assert!(cell == Some(BOX) && warnings[0].contains("another cell than Lattice"), "{warnings:?}");
        assert!(read("cell=\"9 9 9\" box=\"8 8 8\"").unwrap_err().contains("different cells"));
    }

    #[test]
    fn cell_from_parameters_has_them() {
        let (lengths, angles) = ([5.0, 6.0, 7.0], [80.0, 95.0, 110.0]);
        let cell = from_parameters(lengths, angles).unwrap();
        for (k, want) in lengths.into_iter().enumerate() {
            assert!((crate::structure::norm(cell[k]) - want).abs() < 1e-12);
        }
        for (k, want) in angles.into_iter().enumerate() {
            let (i, j) = ((k + 1) % 3, (k + 2) % 3);
            let cosine = crate::structure::dot(cell[i], cell[j]) / (lengths[i] * lengths[j]);
            assert!((cosine.acos().to_degrees() - want).abs() < 1e-10);
        }
        assert!(from_parameters([1.0, 1.0, 1.0], [170.0, 20.0, 20.0]).is_err());
        assert!(from_parameters([1.0, -1.0, 1.0], [90.0; 3]).is_err());
    }
}
