//! Label and field selectors.

use super::kinds::Kind;
use super::status::Refusal;
use serde_json::Value;

/// What a list or a watch is restricted to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selector {
    pub(super) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Box<Refusal>> {
        let labels = parse_labels(labels).ok_or_else(|| Refusal::bad_request(format!("unable to parse requirement: {labels:?}")))?;
        let fields = parse_fields(fields).ok_or_else(|| Refusal::bad_request(format!("invalid selector: {fields:?}")))?;
        for requirement in &fields {
            if !kind.selectable.iter().any(|field| field == &requirement.key) {
                let message = format!("field label not supported: {}", requirement.key);
                return Err(Refusal::bad_request(message));
            }
        }
        Ok(Self { labels, fields })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str().map(str::to_owned);
        // A field that is not there is the empty text.
        let field = |key: &str| Some(field_of(object, key));
        self.labels.iter().all(|r| r.holds(label(&r.key))) && self.fields.iter().all(|r| r.holds(field(&r.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<String>) -> bool {
        match (&self.test, value) {
            (Test::In(values), Some(value)) => values.contains(&value),
            (Test::NotIn(values), Some(value)) => !values.contains(&value),
            (Test::Exists, value) => value.is_some(),
            (Test::Missing, value) => value.is_none(),
            (Test::In(_), None) => false,
            (Test::NotIn(_), None) => true,
        }
    }
}

fn field_of(object: &Value, path: &str) -> String {
    let value = path.split('.').fold(object, |value, field| &value[field]);
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => String::new(),
    }
}

fn parse_fields(text: &str) -> Option<Vec<Requirement>> {
    text.split(',').filter(|term| !term.is_empty()).map(equality).collect()
}

/// `key=value`, `key==value` or `key!=value`.
fn equality(term: &str) -> Option<Requirement> {
    let (key, value) = term.split_once('=')?;
    let (key, test) = match key.strip_suffix('!') {
        Some(key) => (key, Test::NotIn(vec![value.trim().to_owned()])),
        None => {
            let value = value.strip_prefix('=').unwrap_or(value);
            (key, Test::In(vec![value.trim().to_owned()]))
        }
    };
    let key = key.trim().to_owned();
    (!key.is_empty()).then_some(Requirement { key, test })
}

fn parse_labels(text: &str) -> Option<Vec<Requirement>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // A comma inside of parentheses belongs to a set.
        let mut depth = 0_i32;
        let end = rest
            .find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                c == ',' && depth == 0
            })
            .unwrap_or(rest.len());
        found.push(label(rest[..end].trim())?);
        rest = rest.get(end + 1..).unwrap_or_default().trim();
    }
    Some(found)
}

fn label(term: &str) -> Option<Requirement> {
    if term.contains('=') {
        return equality(term);
    }
    if let Some((head, set)) = term.split_once('(') {
        let values: Vec<String> = set.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, word) = head.trim().split_once(char::is_whitespace)?;
        let test = match word.trim() {
            "in" => Test::In(values),
            "notin" => Test::NotIn(values),
            _ => return None,
        };
        return Some(Requirement { key: key.to_owned(), test });
    }
    let (key, test) = match term.strip_prefix('!') {
        Some(key) => (key.trim(), Test::Missing),
        None => (term, Test::Exists),
    };
    let plain = !key.is_empty() && !key.contains(char::is_whitespace);
    plain.then(|| Requirement { key: key.to_owned(), test })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chosen(labels: &str, fields: &str) -> Vec<&'static str> {
        let kind = Kind::all().into_iter().find(|k| k.plural == "managedvms").unwrap();
        let selector = Selector::parse(&kind, labels, fields).unwrap();
        let objects = [
            ("a", json!({"metadata": {"name": "a", "labels": {"env": "prod", "tier": "1"}}})),
            (
                "b",
                json!({"metadata": {"name": "b", "labels": {"env": "test"}}, "status": {"currentReset": {"name": "b-1"}}}),
            ),
            ("c", json!({"metadata": {"name": "c"}, "status": {"node": "pve1"}})),
        ];
        objects.iter().filter(|(_, o)| selector.matches(o)).map(|(name, _)| *name).collect()
    }

    #[test]
    fn labels_select() {
        assert_eq!(chosen("", ""), ["a", "b", "c"]);
        assert_eq!(chosen("env=prod", ""), ["a"]);
        assert_eq!(chosen("env==prod,tier=1", ""), ["a"]);
        assert_eq!(chosen("env!=prod", ""), ["b", "c"]);
        assert_eq!(chosen("env in (prod, test)", ""), ["a", "b"]);
        assert_eq!(chosen("env notin (prod),env", ""), ["b"]);
        assert_eq!(chosen("!env", ""), ["c"]);
    }

    #[test]
    fn fields_select() {
        assert_eq!(chosen("", "metadata.name=b"), ["b"]);
        assert_eq!(chosen("", "metadata.name!=b"), ["a", "c"]);
        assert_eq!(chosen("", "status.currentReset.name!="), ["b"]);
        assert_eq!(chosen("", "status.currentReset.name="), ["a", "c"]);
    }

    #[test]
    fn what_is_not_selectable_is_refused() {
        let kind = Kind::all().into_iter().find(|k| k.plural == "managedvms").unwrap();
        for (labels, fields) in [("", "status.node=pve1"), ("a b", ""), ("a in b", ""), ("", "metadata.name")] {
            assert_eq!(Selector::parse(&kind, labels, fields).unwrap_err().code, 400, "{labels} {fields}");
        }
    }
}
