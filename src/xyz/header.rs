//! The line that begins a frame, and what a file is that has none.

use super::number::lossy;

/// The number of atoms, where a line is that and nothing else.
pub(super) fn parse_count(text: &[u8]) -> std::result::Result<usize, String> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        let n = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<usize>().ok());
        // Two lines go with the atoms.
        return n
            .filter(|n| *n < usize::MAX - 2)
            .ok_or_else(|| format!("atom count {} is larger than any file", lossy(text)));
    }
    let negative = text.strip_prefix(b"-").is_some_and(|t| !t.is_empty() && t.iter().all(u8::is_ascii_digit));
    let kind = if negative { "negative" } else { "not a whole number" };
    Err(format!("atom count is {kind}: found \"{}\", expected only the number of atoms on this line", lossy(text)))
}

/// What a file is that is no XYZ, by its first bytes.
pub(super) fn foreign_format(start: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 24] = [
        (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
        (b"\x89HDF", "HDF5"),
        (b"CDF", "NetCDF"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
        (b"\x1f\x9d", "compress (.Z) data; unpack it first"),
        (b"\x04\x22\x4d\x18", "lz4 data; unpack it first"),
        (b"\x5d\x00\x00", "lzma data; unpack it first"),
        (b"SQLite format 3", "an SQLite (ASE db) database"),
        (b"- of Ulm", "an ASE trajectory (.traj); convert it with ase convert"),
        (b"%PDF", "PDF"),
        (b"\x7fELF", "a program"),
        (b"<", "HTML or XML"),
        (b"{", "JSON"),
        (b"HEADER", "PDB"),
        (b"REMARK", "PDB"),
        (b"CRYST1", "PDB"),
        (b"ATOM  ", "PDB"),
        (b"HETATM", "PDB"),
        (b"data_", "CIF"),
        (b"ITEM:", "a LAMMPS dump"),
        (b"@<TRIPOS>", "mol2"),
    ];
    let start = start.trim_ascii_start();
    SIGNATURES.iter().find(|(bytes, _)| start.starts_with(bytes)).map(|(_, name)| *name)
}
