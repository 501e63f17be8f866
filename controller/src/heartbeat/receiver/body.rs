//! Reads the body of a request, within its limits.

use super::rejection::{Rejected, Rejection};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;
use tokio::time::timeout;

/// Largest body: [`crate::heartbeat::report::MAX_ITEMS`] reports of ordinary size.
pub const MAX_BODY: usize = 1 << 20;

/// Whether the headers speak of plain JSON. That the client accepts JSON is taken for granted.
pub(super) fn check_headers(headers: &HeaderMap) -> Result<(), Rejected> {
    let content_type = headers.get(header::CONTENT_TYPE);
    if !content_type.is_some_and(is_json) {
        return Err(Rejected::new(
            Rejection::MediaType,
            "send the header Content-Type: application/json",
        ));
    }
    let plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        return Err(Rejected::new(
            Rejection::MediaType,
            "send the body without Content-Encoding",
        ));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    Ok(())
}

/// `application/json` or `application/<something>+json`, with any parameters but a charset other than UTF-8.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let utf8 = |part: String| match part.strip_prefix("charset=") {
        Some(charset) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
        None => true,
    };
    json && parts.all(utf8)
}

/// Reads at most [`MAX_BODY`] bytes within `deadline`.
pub(super) async fn read(body: Body, deadline: Duration) -> Result<Bytes, Rejected> {
    match timeout(deadline, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Rejected::new(Rejection::NotJson, "the body broke off")),
        Err(_) => Err(Rejected::new(
            Rejection::SlowBody,
            format!("the body must arrive within {} s", deadline.as_secs_f64()),
        )),
    }
}

fn too_large() -> Rejected {
    Rejected::new(
        Rejection::LargeBody,
        format!("the body must have at most {MAX_BODY} bytes; send fewer reports at a time"),
    )
}
