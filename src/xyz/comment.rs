//! Entries of a comment line: `key=value`, `key="quoted value"`, `key=[1, 2, 3]`, bare flags.

use std::borrow::Cow;
use std::ops::Range;

use super::number::parse_logical;

/// What encloses a value in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimiter {
    None,
    Quote,
    Brace,
    Bracket,
}

/// One entry; ranges are into the comment line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The whole entry.
    pub text: Range<usize>,
    /// The key, without quotes.
    pub key: Range<usize>,
    pub key_quoted: bool,
    /// The value without its delimiters; `None` for a bare flag.
    pub value: Option<Range<usize>>,
    pub delimiter: Delimiter,
    /// `pbc=T T F`, three words that should have been quoted.
    pub unquoted_words: bool,
}

/// A comment line taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Comment {
    /// In the order of the text; empty for free text.
    pub entries: Vec<Entry>,
    pub has_keys: bool,
}

/// Most entries of a comment: a line of 64 MiB could have many millions, each of which takes fifty times its text.
const MAX_ENTRIES: usize = 1 << 16;

/// Takes a comment apart. Text without a single `key=value`, and text with a quote that never closes, is free text
/// without entries, unless it names `Lattice` or `Properties`: then the open quote would swallow them.
///
/// `entries` is empty; its memory is used.
pub(crate) fn parse(line: &[u8], mut entries: Vec<Entry>) -> Result<Comment, String> {
    // More than most comments have.
    entries.reserve(16);
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|c| c.is_ascii_whitespace()).count();
        if at == line.len() {
            break;
        }
        let entry = entry(line, at).and_then(|entry| match swallows_structure(line, &entry) {
            true => Err(entry.text.start),
            false => Ok(entry),
        });
        match entry {
            Ok(_) if entries.len() == MAX_ENTRIES => {
                return Err(format!("more than {MAX_ENTRIES} words and entries in the comment"));
            }
            Ok(entry) => {
                at = entry.text.end;
                entries.push(entry);
            }
            Err(open) => {
                if !mentions_structure(line) {
                    return Ok(Comment::default());
                }
                let found = super::number::lossy(&line[open..]);
                return Err(format!(
                    "unbalanced quote or bracket in the comment, opened at column {}: {found}",
                    open + 1
                ));
            }
        }
    }
    let has_keys = entries.iter().any(|e| e.value.is_some());
    if !has_keys {
        if mentions_structure(line) {
            return Err(format!(
                "Lattice or Properties in a comment that cannot be read: {}",
                super::number::lossy(line)
            ));
        }
        entries.clear();
    }
    join_unquoted_pbc(line, &mut entries);
    Ok(Comment { entries, has_keys })
}

/// One entry at `start`; the error is where an unclosed delimiter opened.
fn entry(line: &[u8], start: usize) -> Result<Entry, usize> {
    let (key, mut at, key_quoted) = match line[start] {
        quote @ (b'"' | b'\'') => {
            let end = closing_quote(line, start, quote).ok_or(start)?;
            (start + 1..end, end + 1, true)
        }
        _ => {
            let length = line[start..].iter().take_while(|c| !c.is_ascii_whitespace() && **c != b'=').count();
            // A stray `=` is a word of its own.
            let end = start + length.max(1);
            (start..end, end, false)
        }
    };
    let flag =
        Entry { text: start..at, key, key_quoted, value: None, delimiter: Delimiter::None, unquoted_words: false };
    at += spaces(line, at);
    if line.get(at) != Some(&b'=') || line[start] == b'=' {
        return Ok(flag);
    }
    let after_equals = at + 1;
    let at = after_equals + spaces(line, after_equals);
    let enclosed = |range: Range<usize>, delimiter| Entry {
        text: start..range.end + 1,
        value: Some(range),
        delimiter,
        ..flag.clone()
    };
    let word = |at: usize| {
        let end = at + line[at..].iter().take_while(|c| !c.is_ascii_whitespace()).count();
        Entry { text: start..end, value: Some(at..end), ..flag.clone() }
    };
    match line.get(at) {
        None => Ok(Entry { text: start..after_equals, value: Some(after_equals..after_equals), ..flag }),
        Some(&quote @ (b'"' | b'\'')) => {
            let end = closing_quote(line, at, quote).ok_or(at)?;
            Ok(enclosed(at + 1..end, Delimiter::Quote))
        }
        Some(b'[' | b'{') if is_word_with_brackets(line, at) => Ok(word(at)),
        Some(b'[') => Ok(enclosed(at + 1..closing_bracket(line, at, b'[', b']').ok_or(at)?, Delimiter::Bracket)),
        Some(b'{') => Ok(enclosed(at + 1..closing_bracket(line, at, b'{', b'}').ok_or(at)?, Delimiter::Brace)),
        // `note= energy=-1`: the value is empty, not `energy=-1`.
        Some(_) if at > after_equals && starts_with_key(&line[at..]) => {
            Ok(Entry { text: start..after_equals, value: Some(after_equals..after_equals), ..flag })
        }
        Some(_) => Ok(word(at)),
    }
}

/// `[H]O[H]`: a bracket that closes before the word does encloses no list.
fn is_word_with_brackets(line: &[u8], at: usize) -> bool {
    let (open, close) = if line[at] == b'[' { (b'[', b']') } else { (b'{', b'}') };
    let Some(end) = closing_bracket(line, at, open, close) else { return false };
    let goes_on = line.get(end + 1).is_some_and(|c| !c.is_ascii_whitespace());
    goes_on && !line[at..end].iter().any(u8::is_ascii_whitespace)
}

fn spaces(line: &[u8], at: usize) -> usize {
    line[at..].iter().take_while(|c| c.is_ascii_whitespace()).count()
}

fn starts_with_key(text: &[u8]) -> bool {
    let length = text.iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')).count();
    let letter = text[..length].iter().any(u8::is_ascii_alphabetic);
    length > 0 && letter && text.get(length + spaces(text, length)) == Some(&b'=')
}

/// Position of the quote that closes the one at `open`; a backslash takes the next character as it is.
fn closing_quote(line: &[u8], open: usize, quote: u8) -> Option<usize> {
    let mut at = open + 1;
    while at < line.len() {
        match line[at] {
            b'\\' => at += 1,
            c if c == quote => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Position of the bracket that closes the one at `open`, past nested brackets and quoted strings.
fn closing_bracket(line: &[u8], open: usize, opening: u8, closing: u8) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = open;
    while at < line.len() {
        match line[at] {
            b'"' => at = closing_quote(line, at, b'"')?,
            c if c == opening => depth += 1,
            c if c == closing => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether text holds `Lattice=` or `Properties=` in any case.
fn mentions_structure(line: &[u8]) -> bool {
    let lower = line.to_ascii_lowercase();
    [&b"lattice"[..], b"properties"].iter().any(|word| {
        memchr::memmem::find_iter(&lower, word).any(|at| {
            let rest = &lower[at + word.len()..];
            rest.get(spaces(rest, 0)) == Some(&b'=')
        })
    })
}

/// Whether a quote opened by mistake has closed at the one that opens the value of `Lattice` or `Properties`: the
/// quoted text then names them, and is no value or ends in `=`. Nothing in braces or brackets names them.
fn swallows_structure(line: &[u8], entry: &Entry) -> bool {
    let quoted = match &entry.value {
        Some(value) if entry.delimiter == Delimiter::Quote => &line[value.clone()],
        Some(value) if entry.delimiter != Delimiter::None => return mentions_structure(&line[value.clone()]),
        None if entry.key_quoted => &line[entry.key.clone()],
        _ => return false,
    };
    (entry.value.is_none() || quoted.trim_ascii_end().ends_with(b"=")) && mentions_structure(quoted)
}

/// Makes one entry of `pbc=T T F`, whose last two words are bare flags to everyone else.
fn join_unquoted_pbc(line: &[u8], entries: &mut Vec<Entry>) {
    let Some(at) = entries.iter().position(|e| {
        line[e.key.clone()].eq_ignore_ascii_case(b"pbc") && e.delimiter == Delimiter::None && e.value.is_some()
    }) else {
        return;
    };
    let is_word = |e: &Entry| e.value.is_none() && !e.key_quoted && parse_logical(&line[e.key.clone()]).is_some();
    let words = entries[at + 1..].iter().take_while(|e| is_word(e)).count();
    if words == 2 {
        let end = entries[at + 2].text.end;
        let pbc = &mut entries[at];
        pbc.text.end = end;
        pbc.value = pbc.value.as_ref().map(|v| v.start..end);
        pbc.unquoted_words = true;
        entries.drain(at + 1..at + 3);
    }
}

/// A quoted string's meaning: backslashes removed, the characters they protect kept (as ASE reads it).
pub(crate) fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&c) = bytes.next() {
        match c {
            b'\\' => out.extend(bytes.next()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Appends text in double quotes, escaped so that [`unescape`] gives it back. Text that names `Lattice=` or `Properties=`
/// would look as if its quote had swallowed them: there, `=` is escaped too.
pub(crate) fn push_quoted(out: &mut Vec<u8>, text: &[u8]) {
    let names_structure = memchr::memchr(b'=', text).is_some() && mentions_structure(text);
    out.push(b'"');
    for &c in text {
        if matches!(c, b'"' | b'\\') || (c == b'=' && names_structure) {
            out.push(b'\\');
        }
        out.push(c);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(line: &str) -> Vec<(String, Option<String>)> {
        let text = |r: &Range<usize>| line[r.clone()].to_string();
        parse(line.as_bytes(), Vec::new())
            .unwrap()
            .entries
            .iter()
            .map(|e| (text(&e.key), e.value.as_ref().map(text)))
            .collect()
    }

    fn pair(key: &str, value: &str) -> (String, Option<String>) {
        (key.into(), Some(value.into()))
    }

    #[test]
    fn comment_splits_all_styles() {
        assert_eq!(
            pairs(r#"a=1 b="x 'y'" c='p "q"' d=[1, 2] e={3 4} flag f=a=b g = 5 h="he \"said\"" i=[[1,2],[3,4]]"#),
            [
                pair("a", "1"),
                pair("b", "x 'y'"),
                pair("c", "p \"q\""),
                pair("d", "1, 2"),
                pair("e", "3 4"),
                ("flag".into(), None),
                pair("f", "a=b"),
                pair("g", "5"),
                pair("h", "he \\\"said\\\""),
                pair("i", "[1,2],[3,4]"),
            ]
        );
    }

    #[test]
    fn comment_empty_values_do_not_swallow_the_next_entry() {
        let want = [pair("note", ""), pair("energy", "-1")];
        assert_eq!(pairs("note= energy=-1"), want);
        assert_eq!(pairs("note=\"\" energy=-1"), want);
        assert_eq!(pairs("note =   energy = -1"), want);
        assert_eq!(pairs("energy=-1 note="), [pair("energy", "-1"), pair("note", "")]);
        assert_eq!(pairs("energy= -1"), [pair("energy", "-1")]);
    }

    #[test]
    fn comment_without_pairs_is_free_text() {
        for text in ["", "   ", "17", "bob's water", "water, PBE0", "# a ; b", "\"open", "\"a\" b"] {
            assert!(parse(text.as_bytes(), Vec::new()).unwrap().entries.is_empty(), "{text}");
        }
    }

    #[test]
    fn comment_open_quote_before_lattice_is_refused() {
        for text in [
            "title=\"x Lattice=\"1 0 0\" b=\"",
            "Lattice=\"1 0 0 Properties=species:S:1",
            "a='b Properties = x",
            "\"= Properties=species:S:1:pos:R:3 Lattice=\"9 0 0\"",
            "x=1 title=\"bob Lattice=\"9 0 0\" y=\"2\"",
            "a={ Lattice=1 }",
        ] {
            assert!(parse(text.as_bytes(), Vec::new()).unwrap_err().contains("unbalanced"), "{text}");
        }
    }

    #[test]
    fn comment_unquoted_pbc_is_one_entry() {
        assert_eq!(pairs("pbc=T T F x=1"), [pair("pbc", "T T F"), pair("x", "1")]);
        assert_eq!(pairs("pbc=T T x=1"), [pair("pbc", "T"), ("T".into(), None), pair("x", "1")]);
    }

    #[test]
    fn comment_brackets_and_quotes_inside_words_are_text() {
        assert_eq!(
            pairs(r"smiles=C[C@H](N)C/C=C\C title=bob's"),
            [pair("smiles", r"C[C@H](N)C/C=C\C"), pair("title", "bob's")]
        );
    }

    #[test]
    fn comment_quoting_round_trips() {
        for text in ["", "plain", "a \"b\" \\ c'", "\\", "[x]yLattice=", "properties = x"] {
            let mut out = Vec::new();
            push_quoted(&mut out, text.as_bytes());
            assert_eq!(&*unescape(&out[1..out.len() - 1]), text.as_bytes());
            assert_eq!(closing_quote(&out, 0, b'"'), Some(out.len() - 1));
        }
    }
}
