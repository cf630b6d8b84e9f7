//! JSON in which no key stands twice: of two values the last would count, without a word.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Parses JSON.
///
/// # Errors
/// What is wrong with it, and where; a key that is given twice, with its place among the others.
pub(crate) fn parse(text: &[u8]) -> Result<Value, String> {
    let path = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Unique { path: &path }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| format!("not JSON that can be read: {e}"))
}

/// Looks at the keys of a JSON object alone, whatever their values are.
///
/// # Errors
/// The key that is given twice. What is no object is for others to refuse.
pub(crate) fn check_keys(text: &[u8]) -> Result<(), String> {
    match serde_json::Deserializer::from_slice(text).deserialize_map(Keys) {
        Ok(Some(key)) => Err(format!("{key:?} is given twice")),
        _ => Ok(()),
    }
}

/// Finds a key that is given twice.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<String>, A::Error> {
        let (mut seen, mut twice) = (HashSet::new(), None);
        while let Some((key, _)) = entries.next_entry::<String, IgnoredAny>()? {
            if seen.contains(&key) {
                twice.get_or_insert(key);
            } else {
                seen.insert(key);
            }
        }
        Ok(twice)
    }
}

/// Numbers by atomic number, such as `{"6": -1036.7}`.
///
/// # Errors
/// A key that is no atomic number as it is commonly written.
pub(crate) fn by_atomic_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u8, f64>, D::Error> {
    let entries = BTreeMap::<String, f64>::deserialize(deserializer)?;
    let number = |key: &str| key.parse::<u8>().ok().filter(|z| z.to_string() == key && *z > 0);
    let refused = |key: &str| {
        let hint = match key.trim_start_matches('0').parse::<u8>() {
            Ok(z) => format!("; {z} is written \"{z}\""),
            Err(_) => crate::structure::SYMBOLS
                .iter()
                .position(|symbol| *symbol == key)
                .map_or_else(String::new, |z| format!("; {key} is \"{z}\"")),
        };
        D::Error::custom(format!("found the key {key:?}, expected atomic numbers such as \"6\"{hint}"))
    };
    entries.into_iter().map(|(key, x)| number(&key).map(|z| (z, x)).ok_or_else(|| refused(&key))).collect()
}

/// Reads a value; `path` is where it stands.
#[derive(Clone, Copy)]
struct Unique<'a> {
    path: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E>(self, x: &str) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_string<E>(self, x: String) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            out.push(item);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = serde_json::Map::new();
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                let mut place = self.path.borrow().clone();
                place.push(key);
                return Err(A::Error::custom(format!("{:?} is given twice", place.join("."))));
            }
            self.path.borrow_mut().push(key.clone());
            let value = entries.next_value_seed(self)?;
            self.path.borrow_mut().pop();
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_keys_given_twice_are_refused_wherever_they_stand() {
        for (text, place) in [
            (r#"{"a": 1, "a": 1}"#, "\"a\" is given twice"),
            (r#"{"a": {"b": 1, "c": 2, "b": 3}}"#, "\"a.b\" is given twice"),
            (r#"{"x": [{"b": 1}, {"b": 1, "b": 1}]}"#, "\"x.b\" is given twice"),
            (r#"{"a": 1, "\u0061": 1}"#, "\"a\" is given twice"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
        let sound = r#"{"a": {"a": [1, -2, 2.5e300, 18446744073709551615, null, true, "x"]}, "b": {"a": {}}}"#;
        assert_eq!(parse(sound.as_bytes()).unwrap(), serde_json::from_str::<Value>(sound).unwrap());
    }

    #[test]
    fn json_that_is_none_is_refused() {
        for text in ["", "{", "{} {}", "[1,", "nul", "{\"a\" 1}", "\"\\ud800\"", "\u{feff}{}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        // Nested too deeply for the stack: an error, too.
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse(b"\"\xff\"").is_err());
    }
}
