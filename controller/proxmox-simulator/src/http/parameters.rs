//! Parameters of a call: path, query and body in one map.

use std::collections::BTreeMap;

use serde_json::Value;

/// Parameters by name. Those of forms, queries and paths are strings; those of JSON bodies have their types.
pub(crate) type Parameters = BTreeMap<String, Value>;

/// Decodes `%XX`. Anything else stays, as does a `%` that is not followed by two digits.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| *first == b'%' && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let decoded = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Decodes `a=1&b=2`. Of a repeated name the last value counts; a name without `=` is an empty value.
pub(crate) fn decode_form(text: &str, into: &mut Parameters) {
    for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        into.insert(decode(name), Value::String(decode(value)));
    }
}

/// Decodes a JSON object. `Err` says what is wrong with it.
pub(crate) fn decode_json(body: &[u8], into: &mut Parameters) -> Result<(), String> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => {
            into.extend(fields);
            Ok(())
        }
        Ok(_) => Err("Not a HASH reference".to_owned()),
        Err(error) => Err(format!("malformed JSON string: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_once() {
        assert_eq!(percent_decode("UPID%3Apve1%3aroot%40pam"), "UPID:pve1:root@pam");
        assert_eq!(percent_decode("%2525 100% %zz %+1 %4"), "%25 100% %zz %+1 %4");
    }

    #[test]
    fn forms_decode_plus_and_missing_values() {
        let mut found = Parameters::new();
        decode_form("a=1+2&b=%2B;c", &mut found);
        assert_eq!(found["a"], "1 2");
        assert_eq!(found["b"], "+");
        assert_eq!(found["c"], "");
    }
}
