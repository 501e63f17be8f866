//! Reading Proxmox's JSON, which is typed as loosely as the Perl that writes it: numbers may come as
//! strings (`"cpus":"4"`), booleans as 1/0, and what is unset as null or not at all. A value of an
//! unexpected kind counts as absent, so that one odd field never costs the whole answer.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Any scalar; lists and objects are [`Loose::Nothing`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loose {
    Nothing,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`: counters can get there.
    Big(u64),
    Float(f64),
    Text(String),
}

impl Loose {
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Bool(value) => Some(u64::from(*value)),
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Big(value) => Some(*value),
            Self::Float(value) => whole(*value),
            Self::Text(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
            }
        }
    }

    pub(crate) fn as_bool(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Big(_) => true,
            Self::Float(value) => *value != 0.0,
            // The words Proxmox itself takes for true in its configuration files.
            Self::Text(text) => ["1", "true", "yes", "on"].iter().any(|word| text.trim().eq_ignore_ascii_case(word)),
        }
    }

    /// As text, taken over by [`crate::text::clean`]; empty counts as absent.
    pub(crate) fn into_text(self) -> Option<String> {
        let text = match self {
            Self::Nothing => return None,
            Self::Bool(value) => u8::from(value).to_string(),
            Self::Int(value) => value.to_string(),
            Self::Big(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) => crate::text::clean(&text),
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// A float's whole part, if it is one a `u64` can hold (`as` would saturate).
fn whole(value: f64) -> Option<u64> {
    // 2^63 rather than 2^64, which f64 cannot be compared with exactly from below.
    (0.0..9_223_372_036_854_775_808.0).contains(&value).then_some(value as u64)
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(i64::try_from(value).map_or(Loose::Big(value), Loose::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Loose, E> {
        Ok(Loose::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }

    fn visit_none<E>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        Loose::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Nothing)
    }
}

/// A whole number, for `deserialize_with`.
pub(crate) fn number<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    Ok(Loose::deserialize(d)?.as_u64())
}

/// A whole number that is zero when absent.
pub(crate) fn counter<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    Ok(number(d)?.unwrap_or_default())
}

/// A whole number of at most 32 bits.
pub(crate) fn small<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    Ok(number(d)?.and_then(|value| u32::try_from(value).ok()))
}

/// A boolean that is false when absent.
pub(crate) fn flag<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(Loose::deserialize(d)?.as_bool())
}

/// Text, absent when empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Loose::deserialize(d)?.into_text())
}

/// Text that is empty when absent.
pub(crate) fn word<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(text(d)?.unwrap_or_default())
}

/// Longest of the texts that are known to be short, in characters.
const MAX_SHORT: usize = 64;

/// Text that is known to be short, cut at 64 characters; empty when absent.
pub(crate) fn short<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(word(d)?.chars().take(MAX_SHORT).collect())
}

/// Whether the field is there with a value, whatever that is.
pub(crate) fn present<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(d)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loose(json: &str) -> Loose {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn numbers_come_in_many_forms() {
        for (json, number) in [
            ("4", Some(4)),
            ("\"4\"", Some(4)),
            ("\" 4 \"", Some(4)),
            ("4.9", Some(4)),
            ("\"4.0\"", Some(4)),
            ("true", Some(1)),
            ("18446744073709551615", Some(u64::MAX)),
            ("null", None),
            ("-1", None),
            ("1e300", None),
            ("\"\"", None),
            ("\"NaN\"", None),
            ("[1,2]", None),
            ("{\"a\":1}", None),
        ] {
            assert_eq!(loose(json).as_u64(), number, "{json}");
        }
    }

    #[test]
    fn booleans_come_in_many_forms() {
        for json in ["1", "\"1\"", "true", "\"true\"", "\"on\"", "\"yes\"", "2"] {
            assert!(loose(json).as_bool(), "{json}");
        }
        for json in ["0", "\"0\"", "false", "\"\"", "null", "[]", "{}", "\"off\"", "0.0"] {
            assert!(!loose(json).as_bool(), "{json}");
        }
    }

    #[test]
    fn text_may_be_written_as_a_number() {
        assert_eq!(loose("42").into_text().as_deref(), Some("42"));
        assert_eq!(loose("\"web\\n1\"").into_text().as_deref(), Some("web 1"));
        assert_eq!(loose("\"\"").into_text(), None);
        assert_eq!(loose("[]").into_text(), None);
    }
}
