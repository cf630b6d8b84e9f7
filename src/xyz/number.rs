//! Numbers as C, Fortran, Python and Mathematica write them.

use std::borrow::Cow;

/// Parses one token, `None` unless all of it is a number. NaN and infinities are numbers here; callers refuse them.
pub(crate) fn parse_real(token: &[u8]) -> Option<f64> {
    fast_float2::parse(token).ok().or_else(|| parse_foreign(token))
}

/// The spellings that fast-float does not know: `1.5D+01`, Mathematica's `7.6*^-6` (in GDB-9), a plus sign in front.
#[cold]
fn parse_foreign(token: &[u8]) -> Option<f64> {
    let token = match token {
        [b'+', rest @ ..] if !rest.starts_with(b"-") && !rest.starts_with(b"+") => rest,
        _ => token,
    };
    let (mantissa, exponent) = match memchr::memmem::find(token, b"*^") {
        Some(at) => (&token[..at], Some(&token[at + 2..])),
        None => (token, None),
    };
    let mut respelled: Vec<u8> = mantissa.iter().map(|&c| if matches!(c, b'D' | b'd') { b'e' } else { c }).collect();
    if let Some(exponent) = exponent {
        respelled.push(b'e');
        respelled.extend_from_slice(exponent);
    }
    // Only digits may follow, or `nand` and `inde` would be read as numbers of some kind.
    let numeric = respelled.iter().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'+' | b'-' | b'e' | b'E'));
    if numeric { fast_float2::parse(respelled).ok() } else { None }
}

/// Whether a token is a number with an exponent that Python's `float` does not read: Fortran's `D`, Mathematica's `*^`.
pub(crate) fn has_foreign_exponent(token: &[u8]) -> bool {
    token.iter().any(|c| matches!(c, b'D' | b'd' | b'*')) && parse_foreign(token).is_some()
}

/// Whether a token is an integer of 32 bits, which is what ASE has room for in a column.
pub(crate) fn is_integer(token: &[u8]) -> bool {
    let digits = match token {
        [b'+' | b'-', rest @ ..] => rest,
        _ => token,
    };
    let short = !digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit);
    short || std::str::from_utf8(token).is_ok_and(|text| text.parse::<i32>().is_ok())
}

/// Splits on whitespace, commas and brackets, and parses every piece; the first piece that is no number is the error.
pub(crate) fn parse_reals(text: &[u8]) -> Result<Vec<f64>, String> {
    list_items(text).map(|piece| parse_real(piece).ok_or_else(|| lossy(piece))).collect()
}

/// Items of an array in any of the old (`1 2 3`) and new (`[1, 2, 3]`, nested) styles.
pub(crate) fn list_items(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|c| c.is_ascii_whitespace() || matches!(c, b',' | b'[' | b']')).filter(|piece| !piece.is_empty())
}

/// Parses a logical value; any case, and `1`/`0`.
pub(crate) fn parse_logical(token: &[u8]) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| token.eq_ignore_ascii_case(word.as_bytes()));
    if is_one_of(&["t", "true", ".true.", "1"]) {
        return Some(true);
    }
    is_one_of(&["f", "false", ".false.", "0"]).then_some(false)
}

/// Text that is not UTF-8 is taken as Latin-1, which XYZ files from older programs are written in.
pub(crate) fn utf8(text: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(text).is_ok() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.iter().map(|&c| char::from(c)).collect::<String>().into_bytes())
}

/// Text of an error message: at most 60 characters of what was found, control characters made visible.
pub(crate) fn lossy(found: &[u8]) -> String {
    let text = String::from_utf8_lossy(&found[..found.len().min(240)]);
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() || found.len() > 240 {
        out.push('…');
    }
    out.replace("\\\"", "\"").replace("\\'", "'")
}

/// Appends the shortest text that reads back as the same number.
pub(crate) fn push_real(out: &mut Vec<u8>, value: impl zmij::Float) {
    out.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
}

/// Appends numbers with spaces between them.
pub(crate) fn push_reals(out: &mut Vec<u8>, values: impl IntoIterator<Item = f64>) {
    for (k, value) in values.into_iter().enumerate() {
        if k > 0 {
            out.push(b' ');
        }
        push_real(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_reads_spellings_of_other_programs() {
        for (text, want) in [
            ("1.5D+01", 15.0),
            ("-7.6d-01", -0.76),
            ("0.0D0", 0.0),
            (".5", 0.5),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("+0.5", 0.5),
            ("+1.0D+00", 1.0),
            ("007", 7.0),
            ("1.e0", 1.0),
            ("1E-3", 1e-3),
            ("7.6*^-6", 7.6e-6),
            ("-1*^2", -100.0),
        ] {
            assert_eq!(parse_real(text.as_bytes()), Some(want), "{text}");
        }
    }

    #[test]
    fn real_refuses_what_is_no_number() {
        for text in [
            "", "-", "+", ".", "1.2.3", "0.0-12.0", "1,5", "1e", "0x10", "1_0", "+-1", "--1", "d", "D0", "1D", "1.0Q0",
            "****", "1.0\0", "*^2", "1*^", "1D0*^2", "1*^2*^2", "1*2",
        ] {
            assert_eq!(parse_real(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn lossy_shortens_and_escapes() {
        assert_eq!(lossy(b"a\0b"), "a\\0b");
        assert!(lossy(&[b'x'; 5000]).len() < 80);
    }
}
