//! Answers, with the reason phrases and bodies of Proxmox VE.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, EXPIRES, HeaderValue, PRAGMA, SERVER};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::config::Dialect;

/// What a successful call returns.
#[derive(Debug, Default)]
pub(crate) struct Data {
    value: Value,
    total: Option<usize>,
}

impl Data {
    /// A list with the number of its elements before paging.
    pub(crate) fn list(value: Vec<Value>, total: usize) -> Self {
        Self {
            value: Value::Array(value),
            total: Some(total),
        }
    }
}

impl From<Value> for Data {
    fn from(value: Value) -> Self {
        Self { value, total: None }
    }
}

/// An answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: u16,
    text: String,
    errors: BTreeMap<String, String>,
    body: ErrorBody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorBody {
    Json,
    /// The text itself: errors from before a call was even looked at.
    Plain,
    Empty,
}

impl ApiError {
    /// An error of the API: JSON body.
    pub(crate) fn new(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            errors: BTreeMap::new(),
            body: ErrorBody::Json,
        }
    }

    /// A handler died with this text.
    pub(crate) fn died(text: impl Into<String>) -> Self {
        Self::new(500, text)
    }

    /// An error of the HTTP server: the text is the body.
    pub(crate) fn server(status: u16, text: impl Into<String>) -> Self {
        Self {
            body: ErrorBody::Plain,
            ..Self::new(status, text)
        }
    }

    /// An error of the proxy or of authentication: no body.
    pub(crate) fn empty(status: u16, text: impl Into<String>) -> Self {
        Self {
            body: ErrorBody::Empty,
            ..Self::new(status, text)
        }
    }

    /// Parameters that are wrong.
    pub(crate) fn parameters(errors: BTreeMap<String, String>) -> Self {
        Self {
            errors,
            ..Self::new(400, "Parameter verification failed.")
        }
    }

    /// One parameter that is wrong.
    pub(crate) fn parameter(name: &str, text: impl Into<String>) -> Self {
        Self::parameters(BTreeMap::from([(name.to_owned(), text.into())]))
    }

    /// A privilege that is missing; `what` goes into the parentheses.
    pub(crate) fn forbidden(what: &str) -> Self {
        Self::new(403, format!("Permission check failed ({what})"))
    }
}

/// A complete answer, not yet tied to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    reason: String,
    content_type: Option<&'static str>,
    body: Bytes,
}

const JSON: &str = "application/json;charset=UTF-8";

impl Answer {
    /// A success, or an error, in the given dialect.
    pub(crate) fn of(result: Result<Data, ApiError>, dialect: Dialect) -> Self {
        match result {
            Ok(data) => {
                let mut body = json!({ "data": data.value });
                if let (Some(total), Some(fields)) = (data.total, body.as_object_mut()) {
                    // Perl leaves out what is not true.
                    if total > 0 {
                        fields.insert("total".to_owned(), total.into());
                    }
                }
                Self {
                    status: 200,
                    reason: "OK".to_owned(),
                    content_type: Some(JSON),
                    body: body.to_string().into(),
                }
            }
            Err(error) => Self::error(&error, dialect),
        }
    }

    /// An error in the given dialect.
    pub(crate) fn error(error: &ApiError, dialect: Dialect) -> Self {
        // Only the first line fits into a status line.
        let reason = error.text.lines().next().unwrap_or_default().to_owned();
        let (content_type, body) = match error.body {
            ErrorBody::Empty => (None, Bytes::new()),
            ErrorBody::Plain => (None, error.text.clone().into()),
            ErrorBody::Json => {
                let mut body = json!({ "data": null });
                if let Some(fields) = body.as_object_mut() {
                    if !error.errors.is_empty() {
                        fields.insert("errors".to_owned(), json!(error.errors));
                    }
                    if dialect == Dialect::Current {
                        fields.insert("message".to_owned(), format!("{}\n", error.text).into());
                    }
                }
                (Some(JSON), body.to_string().into())
            }
        };
        Self {
            status: error.status,
            reason,
            content_type,
            body,
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// The response, with the headers every answer of pveproxy has.
    pub(crate) fn into_response(self, keep_alive: bool) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Ok(reason) = ReasonPhrase::try_from(self.reason) {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        let now = Timestamp::now()
            .to_zoned(TimeZone::UTC)
            .strftime("%a, %d %b %Y %H:%M:%S GMT")
            .to_string();
        if let Ok(now) = HeaderValue::try_from(now) {
            headers.insert(DATE, now.clone());
            headers.insert(EXPIRES, now);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        headers.insert(
            CONNECTION,
            HeaderValue::from_static(if keep_alive { "Keep-Alive" } else { "close" }),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(error: &ApiError, dialect: Dialect) -> String {
        String::from_utf8(Answer::error(error, dialect).body.to_vec()).unwrap()
    }

    #[test]
    fn errors_carry_a_message_only_in_the_current_dialect() {
        let error = ApiError::died("VM 100 not running");
        assert_eq!(
            body(&error, Dialect::Current),
            "{\"data\":null,\"message\":\"VM 100 not running\\n\"}"
        );
        assert_eq!(body(&error, Dialect::Legacy), "{\"data\":null}");
    }

    #[test]
    fn the_reason_phrase_is_the_first_line() {
        let answer = Answer::error(&ApiError::died("first\nsecond"), Dialect::Current);
        assert_eq!(answer.reason(), "first");
    }

    #[test]
    fn proxy_errors_have_no_body() {
        assert_eq!(body(&ApiError::empty(596, "Broken pipe"), Dialect::Current), "");
    }
}
