//! Errors as RFC 9457 problem details.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A problem as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// URN of the kind of problem, `urn:defib:problem:<reason>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words; the same for each of its kind.
    pub title: &'static str,
    /// Status code.
    pub status: u16,
    /// What is wrong this time, and what to do.
    pub detail: String,
    /// The field that is wrong, such as `disks[2].usedBytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
