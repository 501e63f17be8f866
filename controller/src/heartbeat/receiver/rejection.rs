//! Why a report or a request is refused.

use crate::heartbeat::problem::Problem;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use std::fmt::Display;
use std::time::Duration;

/// Why a report or a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The body is not JSON, or it broke off.
    NotJson,
    /// No key came with it.
    NoKey,
    /// The key is none of ours, or of a retired generation.
    WrongKey,
    /// It comes from another machine than the one that Proxmox has under the VM's id.
    WrongMachine,
    /// The key is right but its ManagedVM does not exist.
    UnknownVm,
    /// Not POST.
    Method,
    /// The body did not arrive in time.
    SlowBody,
    /// The body is too large.
    LargeBody,
    /// The array has too many items.
    TooManyReports,
    /// The body says that it is something else than plain JSON.
    MediaType,
    /// A field is missing or wrong.
    Invalid,
    /// The VM reports too often.
    TooOften,
    /// This process is not the decider, or not yet.
    NotServing,
    /// Too many requests at the same time.
    Overloaded,
}

impl Rejection {
    /// Reasons in metrics and problem types.
    pub const REASONS: [&'static str; 14] = [
        "not-json",
        "no-key",
        "wrong-key",
        "wrong-machine",
        "unknown-vm",
        "method",
        "slow-body",
        "large-body",
        "too-many-reports",
        "media-type",
        "invalid",
        "too-often",
        "not-serving",
        "overloaded",
    ];

    /// Constant reason, one of [`Rejection::REASONS`].
    pub fn reason(self) -> &'static str {
        Self::REASONS[self as usize]
    }

    /// Status code of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::BAD_REQUEST,
            Self::NoKey | Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::WrongMachine => StatusCode::FORBIDDEN,
            Self::UnknownVm => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::LargeBody | Self::TooManyReports => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::NotServing | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What it is, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::NotJson => "The body is not JSON",
            Self::NoKey => "No key",
            Self::WrongKey => "Wrong key",
            Self::WrongMachine => "Wrong machine",
            Self::UnknownVm => "No such VM",
            Self::Method => "Method not allowed",
            Self::SlowBody => "The body did not arrive in time",
            Self::LargeBody => "The body is too large",
            Self::TooManyReports => "Too many reports in one request",
            Self::MediaType => "Not JSON by its headers",
            Self::Invalid => "A field is missing or wrong",
            Self::TooOften => "Too many reports",
            Self::NotServing => "Not serving",
            Self::Overloaded => "Overloaded",
        }
    }

    /// Whether a report was turned away that might have been a good one, of a VM that was not heard for it (rule 1). A VM that is over its own rate was heard.
    pub fn is_shed(self) -> bool {
        matches!(self, Self::NotServing | Self::Overloaded)
    }
}

/// A refusal of one report or of a whole request.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) rejection: Rejection,
    pub(super) detail: String,
    pub(super) field: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

impl Rejected {
    pub(super) fn new(rejection: Rejection, detail: impl Display) -> Self {
        Self {
            rejection,
            detail: detail.to_string(),
            field: None,
            retry_after: None,
        }
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        let rejection = self.rejection;
        let mut response = Problem {
            kind: format!("urn:defib:problem:{}", rejection.reason()),
            title: rejection.title(),
            status: rejection.status().as_u16(),
            detail: self.detail,
            field: self.field,
        }
        .into_response();
        let headers = response.headers_mut();
        match rejection.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"defib\""));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes back too early is turned away again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::Rejection;

    /// Reasons are labels of metrics and types of problems: clients and alerts know them by name.
    #[test]
    fn reasons_are_a_contract() {
        let contract = [
            (Rejection::NotJson, "not-json", 400),
            (Rejection::NoKey, "no-key", 401),
            (Rejection::WrongKey, "wrong-key", 401),
            (Rejection::WrongMachine, "wrong-machine", 403),
            (Rejection::UnknownVm, "unknown-vm", 404),
            (Rejection::Method, "method", 405),
            (Rejection::SlowBody, "slow-body", 408),
            (Rejection::LargeBody, "large-body", 413),
            (Rejection::TooManyReports, "too-many-reports", 413),
            (Rejection::MediaType, "media-type", 415),
            (Rejection::Invalid, "invalid", 422),
            (Rejection::TooOften, "too-often", 429),
            (Rejection::NotServing, "not-serving", 503),
            (Rejection::Overloaded, "overloaded", 503),
        ];
        assert_eq!(contract.len(), Rejection::REASONS.len());
        for (rejection, reason, status) in contract {
            assert_eq!((rejection.reason(), rejection.status().as_u16()), (reason, status));
        }
    }
}
