//! Times that people declare.
//!
//! API servers take any date-time of the years 0 to 9999. The last day of them, which tools write for "never" (9999-12-31T23:59:59Z), is past the end of what
//! [`Timestamp`] can hold: it is read as that end. Otherwise the whole object could not be read, and nobody would be told.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};

/// Reads a time.
pub(crate) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().or_else(|error| {
        let at_the_end = text.starts_with("9999-12-30") || text.starts_with("9999-12-31");
        if at_the_end {
            Ok(Timestamp::MAX)
        } else {
            Err(D::Error::custom(error))
        }
    })
}

/// Reads a time that may be left out.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    struct Read(#[serde(deserialize_with = "time")] Timestamp);
    Ok(Option::<Read>::deserialize(deserializer)?.map(|read| read.0))
}

#[cfg(test)]
mod tests {
    use crate::{Pause, ResetPolicy};
    use jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn never_is_read_as_the_end_of_time() {
        let ends =
            |text: &str| serde_json::from_value::<Pause>(json!({"owner": "a", "reason": "b", "expiresAt": text})).map(|p| p.expires_at);
        for text in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999999Z", "9999-12-30T23:00:00+00:00"] {
            assert_eq!(ends(text).unwrap(), Some(Timestamp::MAX), "{text}");
        }
        assert_eq!(ends("9999-12-30T12:00:00Z").unwrap().unwrap().to_string(), "9999-12-30T12:00:00Z");
        assert_eq!(
            ends("2026-01-01T00:00:00+01:00").unwrap().unwrap().to_string(),
            "2025-12-31T23:00:00Z"
        );
        assert!(ends("tomorrow").is_err());
        let absent: Pause = serde_json::from_value(json!({"owner": "a", "reason": "b", "expiresAt": null})).unwrap();
        assert_eq!(absent.expires_at, None);
        let policy: ResetPolicy = serde_json::from_value(json!({"forgiveBefore": "9999-12-31T23:59:59Z"})).unwrap();
        assert_eq!(policy.forgive_before, Some(Timestamp::MAX));
    }
}
