//! `/access`.

use serde_json::{Map, Value};

use super::Call;
use super::method::{Method, Verb};
use super::schema::{Kind, Parameter};
use crate::config::Privileges;
use crate::http::{ApiError, Data};

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Get, "/access/permissions", |call| {
        Box::pin(async move { Ok(permissions(&call)) })
    })
    .takes(&[Parameter::optional("path", Kind::Text)]),
    Method::new(Verb::Post, "/access/ticket", |_| {
        Box::pin(async { Err(ApiError::empty(401, "authentication failure")) })
    })
    .needs_ticket(),
];

/// The caller's own privileges; `1` means that they hold for deeper paths too.
fn permissions(call: &Call) -> Data {
    let state = call.cluster.state();
    let found = match (call.rights(), call.text("path")) {
        (None, _) => Privileges::new(),
        (Some(rights), None) => rights.all(&state),
        (Some(rights), Some(path)) => Privileges::from([(path.to_owned(), rights.on(&state, path))]),
    };
    let rows: Map<String, Value> = found
        .into_iter()
        .map(|(path, names)| {
            let names: Map<String, Value> = names.into_iter().map(|name| (name, 1.into())).collect();
            (path, Value::Object(names))
        })
        .collect();
    Value::Object(rows).into()
}
