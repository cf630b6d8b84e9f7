//! Comment entries as other programs can read them.
//!
//! An entry is carried through as the file has it, unless ASE would stumble over it or misread it; then that one entry
//! is spelled anew:
//!
//! | found | written |
//! |---|---|
//! | `lattice=…`, 3×3 or Fortran numbers in it | `Lattice="nine numbers"` |
//! | `PBC=…`, `pbc=T` and `pbc=T T F` without quotes, `t`/`.true.` | `pbc="T T F"` |
//! | `note=` and `note=""`, whose value ASE takes from the next entry | `note=" "` |
//! | quotes, brackets and backslashes inside a bare word | the word in quotes, escaped |
//! | `stress`, `virial`, `virials` of six numbers or 3×3 | nine numbers |
//! | `[[1, 2], [3, 4]]` | `"_JSON [[1, 2], [3, 4]]"`; text where it is no array, such as `[[1, 2], [3]]` |
//! | `_JSON` that is none | a space in front |
//! | `-1.5D+01`, `-1.5*^1` | `-15.0` |
//! | bytes that are not UTF-8 | the same characters, read as Latin-1 |

use super::number::utf8;
use std::borrow::Cow;

use super::comment::{Delimiter, Entry, push_quoted, unescape};
use super::frame::{Frame, is_key};
use super::labels::full_tensor;
use super::number::{has_foreign_exponent, list_items, parse_logical, parse_real, parse_reals, push_reals};

/// Appends an entry that is neither `Properties` nor replaced.
pub(crate) fn push_entry(out: &mut Vec<u8>, frame: &Frame, entry: &Entry) {
    let comment = frame.comment();
    let text = utf8(&comment[entry.text.clone()]);
    let key = utf8(&comment[entry.key.clone()]);
    let Some(value) = entry.value.clone().map(|range| utf8(&comment[range])) else {
        // Bare words; `Lattice` and the like mean nothing without a value.
        if entry.key_quoted || is_plain_word(&key) {
            out.extend_from_slice(&text);
        } else {
            push_quoted(out, &key);
        }
        return;
    };
    if is_key(comment, entry, "Lattice") {
        if key[..] == *b"Lattice" && is_flat_list(entry.delimiter, &value, is_python_real) {
            out.extend_from_slice(&text);
        } else {
            out.extend_from_slice(b"Lattice=\"");
            push_reals(out, frame.structure.cell.unwrap_or_default().into_iter().flatten());
            out.push(b'"');
        }
        return;
    }
    if is_key(comment, entry, "pbc") {
        // Not a bare word: when what follows it makes way for results, two more words may stand behind it.
        let enclosed = entry.delimiter != Delimiter::None;
        if key[..] == *b"pbc" && enclosed && is_flat_list(entry.delimiter, &value, is_ase_logical) {
            out.extend_from_slice(&text);
        } else {
            push_pbc(out, frame.structure.pbc);
        }
        return;
    }
    push_value(out, entry, &text, &key, &value);
}

/// Appends `pbc="T T F"`.
pub(crate) fn push_pbc(out: &mut Vec<u8>, pbc: [bool; 3]) {
    let [a, b, c] = pbc.map(|p| if p { b'T' } else { b'F' });
    out.extend_from_slice(b"pbc=\"");
    out.extend_from_slice(&[a, b' ', b, b' ', c, b'"']);
}

fn push_value(out: &mut Vec<u8>, entry: &Entry, text: &[u8], key: &[u8], value: &[u8]) {
    let bare_key_is_fine = entry.key_quoted || is_plain_word(key);
    let new_value: Option<Vec<u8>> = if value.trim_ascii().is_empty() {
        // One space is the shortest value that ASE does not run into the next entry.
        (value.is_empty()).then(|| b" ".to_vec())
    } else if let Some(numbers) = respelled_numbers(key, &meaning_of(entry, value)) {
        Some(numbers)
    } else {
        match entry.delimiter {
            Delimiter::None => (!is_plain_word(value)).then(|| value.to_vec()),
            Delimiter::Bracket if value.contains(&b'[') => nested_as_json(value),
            Delimiter::Brace if value.contains(&b'{') => Some([b"{", value, b"}"].concat()),
            _ => None,
        }
    };
    let meaning = new_value.map_or_else(|| meaning_of(entry, value), Cow::Owned);
    let broken_json = meaning.strip_prefix(b"_JSON ").is_some_and(|json| !is_json(json));
    let respelled = broken_json || matches!(meaning, Cow::Owned(_)) && !is_unescaped(entry, value, &meaning);
    if !respelled && bare_key_is_fine {
        out.extend_from_slice(text);
        return;
    }
    if entry.key_quoted {
        push_quoted(out, &unescape(key));
    } else if bare_key_is_fine {
        out.extend_from_slice(key);
    } else {
        push_quoted(out, key);
    }
    out.push(b'=');
    if broken_json {
        push_quoted(out, &[b" ", &meaning[..]].concat());
    } else {
        push_quoted(out, &meaning);
    }
}

/// The value without escapes: numbers are numbers with and without them.
fn meaning_of<'a>(entry: &Entry, value: &'a [u8]) -> Cow<'a, [u8]> {
    if entry.delimiter == Delimiter::Quote { unescape(value) } else { Cow::Borrowed(value) }
}

/// Whether `meaning` is only the value with its escapes removed, so that nothing has to be spelled anew.
fn is_unescaped(entry: &Entry, value: &[u8], meaning: &[u8]) -> bool {
    entry.delimiter == Delimiter::Quote && unescape(value)[..] == *meaning
}

/// Numbers spelled anew where they have Fortran exponents, and six or nested numbers of a tensor as nine.
fn respelled_numbers(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    // Free text of a plain frame is what stands there.
    if key == b"comment" {
        return None;
    }
    let is_tensor = matches!(key, b"stress" | b"virial" | b"virials");
    // The outer brackets of a list are not part of its value, those of a quoted one are: text that stays as it is.
    let nested = value.contains(&b'[');
    // The decimal point tells -1.5D+01 from names such as 1D66.
    let foreign = list_items(value).any(|item| item.contains(&b'.') && has_foreign_exponent(item));
    if !is_tensor && (!foreign || nested) {
        return None;
    }
    let values = parse_reals(value).ok()?;
    let mut out = Vec::new();
    match full_tensor(&values) {
        Some(tensor) if is_tensor && (values.len() == 6 || nested || foreign) => {
            push_reals(&mut out, tensor.into_iter().flatten());
        }
        _ if foreign => push_reals(&mut out, values),
        _ => return None,
    }
    Some(out)
}

/// A nested array as the JSON that ASE reads, where it is one.
fn nested_as_json(value: &[u8]) -> Option<Vec<u8>> {
    let array = [b"[", value, b"]"].concat();
    Some(if is_json(&array) { [b"_JSON ", &array[..]].concat() } else { array })
}

/// Whether ASE makes something of a text as JSON. Python reads NaN and Infinity there, unlike the standard; NumPy makes
/// no array of lists of different lengths.
fn is_json(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let value = |t: &str| serde_json::from_str::<serde_json::Value>(t).ok();
    let found =
        value(text).or_else(|| value(&text.replace("-Infinity", "0").replace("Infinity", "0").replace("NaN", "0")));
    found.and_then(|value| shape(&value)).is_some_and(|shape| shape.len() <= MAX_DIMENSIONS)
}

/// Most dimensions of an array in every version of NumPy.
const MAX_DIMENSIONS: usize = 32;

/// Lengths of nested lists, outermost last; `None` where they differ.
fn shape(value: &serde_json::Value) -> Option<Vec<usize>> {
    let serde_json::Value::Array(items) = value else { return Some(Vec::new()) };
    let mut inner = None;
    for item in items {
        let shape = shape(item)?;
        if *inner.get_or_insert_with(|| shape.clone()) != shape {
            return None;
        }
    }
    let mut shape = inner.unwrap_or_default();
    shape.push(items.len());
    Some(shape)
}

/// No character that ASE's splitter gives a meaning.
fn is_plain_word(word: &[u8]) -> bool {
    !word.starts_with(b"=") && !word.iter().any(|c| matches!(c, b'"' | b'\'' | b'{' | b'}' | b'[' | b']' | b'\\'))
}

fn is_flat_list(delimiter: Delimiter, value: &[u8], is_item: impl Fn(&[u8]) -> bool) -> bool {
    let enclosed = delimiter != Delimiter::None || list_items(value).count() == 1;
    enclosed && is_plain_word(value) && list_items(value).all(is_item)
}

fn is_python_real(item: &[u8]) -> bool {
    parse_real(item).is_some() && !has_foreign_exponent(item)
}

fn is_ase_logical(item: &[u8]) -> bool {
    parse_logical(item).is_some()
        && matches!(item, b"T" | b"F" | b"true" | b"false" | b"True" | b"False" | b"TRUE" | b"FALSE" | b"0" | b"1")
}
