//! Parameter checks, with the texts of Proxmox VE's JSON schema.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::is_node_name;
use crate::http::{ApiError, Parameters};

/// A parameter of a method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) optional: bool,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    Boolean,
    /// From a minimum to a maximum.
    Integer(i64, i64),
    NodeName,
    OneOf(&'static [&'static str]),
}

impl Parameter {
    pub(crate) const fn required(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            optional: false,
        }
    }

    pub(crate) const fn optional(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            optional: true,
        }
    }
}

/// `node`, in the path.
pub(crate) const NODE: Parameter = Parameter::required("node", Kind::NodeName);
/// `vmid`, in the path.
pub(crate) const VMID: Parameter = Parameter::required("vmid", Kind::Integer(100, 999_999_999));

/// Checks all parameters and turns texts into numbers and booleans.
pub(crate) fn verify(declared: &[Parameter], given: &mut Parameters) -> Result<(), ApiError> {
    let mut errors = BTreeMap::new();
    for parameter in declared {
        match given.get_mut(parameter.name) {
            Some(value) => match parameter.kind.check(value) {
                Ok(checked) => *value = checked,
                Err(text) => {
                    errors.insert(parameter.name.to_owned(), text);
                }
            },
            None if parameter.optional => {}
            None => {
                errors.insert(parameter.name.to_owned(), "property is missing and it is not optional".to_owned());
            }
        }
    }
    for name in given
        .keys()
        .filter(|name| declared.iter().all(|parameter| parameter.name != name.as_str()))
    {
        let text = "property is not defined in schema and the schema does not allow additional properties";
        errors.insert(name.clone(), text.to_owned());
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::parameters(errors))
    }
}

/// A value as it would stand in a path or a form.
pub(crate) fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}

impl Kind {
    fn check(self, value: &Value) -> Result<Value, String> {
        let text = plain_text(value);
        let mistyped = |name: &str| format!("type check ('{name}') failed - got '{text}'");
        match self {
            Self::Text => Ok(Value::String(text)),
            // A form has no booleans: `true` and `false` are only accepted as JSON values.
            Self::Boolean => match text.as_str() {
                "1" => Ok(true.into()),
                "0" => Ok(false.into()),
                _ => Err(mistyped("boolean")),
            },
            Self::Integer(least, most) => {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
                if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(mistyped("integer"));
                }
                // What does not fit is beyond every maximum there is.
                let number = text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX });
                match number {
                    number if number < least => Err(format!("value must have a minimum value of {least}")),
                    number if number > most => Err(format!("value must have a maximum value of {most}")),
                    number => Ok(number.into()),
                }
            }
            Self::NodeName if is_node_name(&text) => Ok(Value::String(text)),
            Self::NodeName => Err("invalid format - value does not look like a valid node name".to_owned()),
            Self::OneOf(words) if words.contains(&text.as_str()) => Ok(Value::String(text)),
            Self::OneOf(words) => Err(format!(
                "value '{text}' does not have a value in the enumeration '{}'",
                words.join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, value: impl Into<Value>) -> Result<Value, String> {
        kind.check(&value.into())
    }

    #[test]
    fn booleans_of_forms_are_digits() {
        assert_eq!(check(Kind::Boolean, "1"), Ok(true.into()));
        assert_eq!(check(Kind::Boolean, true), Ok(true.into()));
        assert_eq!(
            check(Kind::Boolean, "true"),
            Err("type check ('boolean') failed - got 'true'".to_owned())
        );
    }

    #[test]
    fn integers_have_limits_and_no_letters() {
        let kind = Kind::Integer(100, 999_999_999);
        assert_eq!(check(kind, "101"), Ok(101.into()));
        assert_eq!(check(kind, 101), Ok(101.into()));
        assert_eq!(check(kind, "abc"), Err("type check ('integer') failed - got 'abc'".to_owned()));
        assert_eq!(check(kind, "99"), Err("value must have a minimum value of 100".to_owned()));
        assert!(check(kind, "99999999999999999999").is_err());
    }

    #[test]
    fn unknown_and_missing_parameters_are_named() {
        let mut given = Parameters::from([("frob".to_owned(), "1".into())]);
        let error = verify(&[NODE], &mut given).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("frob") && text.contains("node"), "{text}");
    }
}
