//! From an HTTP request to what is meant by it.

use super::fault::Verb;
use super::kinds::Kind;
use super::selector::Selector;
use super::status::Refusal;
use http::{Method, header, request::Parts};
use serde_json::Value;
use std::collections::BTreeMap;

/// The object or objects that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the kinds.
    pub(super) kind: usize,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) status: bool,
}

impl Place {
    /// Reads `/api/v1/...` and `/apis/<group>/<version>/...`.
    pub(super) fn parse(kinds: &[Kind], path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next()?;
        let mut rest: Vec<&str> = parts.collect();
        let mut namespace = "";
        if let ["namespaces", of, _, ..] = rest.as_slice() {
            namespace = *of;
            rest.drain(..2);
        }
        let (plural, name, sub) = match rest.as_slice() {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, sub] => (*plural, *name, *sub),
            _ => return None,
        };
        let kind = kinds
            .iter()
            .position(|k| k.group == group && k.version == version && k.plural == plural)?;
        let about = kinds.get(kind)?;
        let status = match sub {
            "" => false,
            "status" if about.has_status => true,
            _ => return None,
        };
        let misplaced = about.namespaced && namespace.is_empty() && !name.is_empty();
        if misplaced || (!about.namespaced && !namespace.is_empty()) {
            return None;
        }
        Some(Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status,
        })
    }
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Box<Refusal>> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Refusal::bad_request(format!("{name}: {text:?} is no number"))),
        }
    }

    pub(super) fn selector(&self, kind: &Kind) -> Result<Selector, Box<Refusal>> {
        Selector::parse(kind, self.text("labelSelector"), self.text("fieldSelector"))
    }
}

/// What a request does. `None` for a method that the place does not take.
pub(super) fn verb(method: &Method, place: &Place, query: &Query) -> Option<Verb> {
    let one = !place.name.is_empty();
    Some(match *method {
        Method::GET if one => Verb::Get,
        Method::GET if query.is_true("watch") => Verb::Watch,
        Method::GET => Verb::List,
        Method::POST if !one => Verb::Create,
        Method::PUT if one => Verb::Update,
        Method::PATCH if one => Verb::Patch,
        Method::DELETE if one && !place.status => Verb::Delete,
        _ => return None,
    })
}

/// Whether only the metadata is asked for.
pub(super) fn metadata_only(parts: &Parts) -> bool {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
}

/// The body of a write.
pub(super) fn body(verb: Verb, parts: &Parts, bytes: &[u8]) -> Result<Value, Box<Refusal>> {
    if verb == Verb::Patch {
        let of = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if of != Some("application/merge-patch+json") {
            let message = format!("this server takes merge patches only, not {}", of.unwrap_or_default());
            return Err(Refusal::unsupported_media_type(&message));
        }
    }
    if bytes.is_empty() && verb == Verb::Delete {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_objects() {
        let kinds = Kind::all();
        let parse = |path: &str| {
            Place::parse(&kinds, path).map(|p| {
                let kind = kinds[p.kind].plural.clone();
                format!("{kind} {} {} {}", p.namespace, p.name, p.status)
            })
        };
        let vms = "/apis/defib.dev/v1alpha1";
        assert_eq!(parse(&format!("{vms}/managedvms")).unwrap(), "managedvms   false");
        assert_eq!(
            parse(&format!("{vms}/namespaces/vms/managedvms/a/status")).unwrap(),
            "managedvms vms a true"
        );
        assert_eq!(parse("/api/v1/nodes/n").unwrap(), "nodes  n false");
        assert_eq!(parse("/api/v1/namespaces/vms/secrets/s").unwrap(), "secrets vms s false");
        for nowhere in [
            "/api/v1/pods",
            "/apis/defib.dev/v1/managedvms",
            "/apis/defib.dev/v1alpha1/managedvms/a",
            "/api/v1/namespaces/vms/nodes/n",
            "/api/v1/namespaces/vms/secrets/s/status",
            "/healthz",
        ] {
            assert_eq!(parse(nowhere), None, "{nowhere}");
        }
    }
}
