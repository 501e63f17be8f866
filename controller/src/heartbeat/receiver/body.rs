//! Reads the body of a request, within its limits.

use super::rejection::{Rejected, Rejection};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;

/// Largest body: [`crate::heartbeat::report::MAX_ITEMS`] reports of ordinary size.
pub const MAX_BODY: usize = 1 << 20;
/// What is read of a body that is too large, so that its sender reads why it was refused. Who sends more than this does not listen.
const MAX_DISCARDED: usize = 8 << 20;

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
        return Err(Rejected::new(Rejection::MediaType, "send the body without Content-Encoding"));
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
pub(super) async fn read(mut body: Body, headers: &HeaderMap, deadline: Duration) -> Result<Bytes, Rejected> {
    let read = async {
        let announced: Option<u64> = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if announced.is_none_or(|length| length <= MAX_BODY as u64)
            && let Some(bytes) = collect(&mut body).await?
        {
            return Ok(bytes);
        }
        // Who asked first whether to send it at all is best answered without reading it.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        Err(Rejected::new(
            Rejection::LargeBody,
            format!("the body must have at most {MAX_BODY} bytes; send fewer reports at a time"),
        ))
    };
    timeout(deadline, read).await.unwrap_or_else(|_| {
        Err(Rejected::new(
            Rejection::SlowBody,
            format!("the body must arrive within {} s", deadline.as_secs_f64()),
        ))
    })
}

/// The whole body; none when it is too large.
async fn collect(body: &mut Body) -> Result<Option<Bytes>, Rejected> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Rejected::new(Rejection::NotJson, "the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}

/// Reads on, to nowhere: a connection that is closed with unread data is reset, and the client would see that instead of the answer.
async fn discard(body: &mut Body) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}
