//! The CEL rules of the specs, once more: the API server in memory does not evaluate them. `real.rs` holds these against a real one.

use serde_json::Value;

/// This value may never be changed.
pub const IMMUTABLE: &str = "self == oldSelf";

/// Whether a rule holds of a value.
type Holds = fn(&Value) -> bool;

/// Rules by their text, as the definitions have it.
const RULES: [(&str, Holds); 4] = [
    (
        "!has(self.timeoutSeconds) || !has(self.reportSeconds) || self.timeoutSeconds >= 4 * self.reportSeconds",
        |v| match (v["timeoutSeconds"].as_u64(), v["reportSeconds"].as_u64()) {
            (Some(timeout), Some(report)) => timeout >= 4 * report,
            _ => true,
        },
    ),
    ("self.action != 'Reset' || self.metric != 'Disk'", |v| {
        v["action"] != "Reset" || v["metric"] != "Disk"
    }),
    (
        "type(self) == int ? self >= 1 && self <= 100000 : self.matches('^(100|[1-9][0-9]?)%$')",
        |v| match (v.as_i64(), v.as_str().and_then(|text| text.strip_suffix('%'))) {
            (Some(count), _) => (1..=100_000).contains(&count),
            (None, Some(digits)) => !digits.starts_with(['0', '+']) && digits.parse::<u8>().is_ok_and(|n| (1..=100).contains(&n)),
            (None, None) => false,
        },
    ),
    // That of a value which may not be changed is held by never changing it.
    (IMMUTABLE, |_| true),
];

/// The rules that a schema has for its own value.
pub fn of(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.filter_map(|rule| rule["rule"].as_str())
}

/// Whether all rules of a schema hold of a value, to its last leaf.
pub fn hold(schema: &Value, value: &Value) -> bool {
    let own = of(schema).all(|text| {
        let known = RULES.iter().find(|(known, _)| *known == text);
        let (_, holds) = known.unwrap_or_else(|| panic!("the rule {text:?} is not in rules.rs: say there in Rust what it says"));
        holds(value)
    });
    own && match value {
        Value::Object(fields) => fields.iter().all(|(name, field)| hold(&schema["properties"][name], field)),
        Value::Array(items) => items.iter().all(|item| hold(&schema["items"], item)),
        _ => true,
    }
}
