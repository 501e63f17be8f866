//! Reads the body of a request, within its limits.

use super::COME_BACK;
use super::rejection::{Rejected, Rejection};
use crate::heartbeat::crowd::{Crowd, Place};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

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

/// Pause before more room is made for a body that waits for some.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// The places of requests that have shown no key yet, and the memory that their bodies may take up together.
pub(super) struct Anonymous {
    places: Arc<Crowd>,
    bytes: Semaphore,
}

impl Anonymous {
    /// So many requests, each left alone for `fair` at least, with so many bytes in all.
    pub(super) fn new(places: usize, bytes: usize, fair: Duration) -> Self {
        Self {
            places: Crowd::new(places, fair),
            bytes: Semaphore::new(bytes),
        }
    }

    /// A place; none when all are taken, none of them for long enough.
    pub(super) fn enter(&self) -> Option<Stay<'_>> {
        self.places.enter().map(|place| Stay {
            place,
            room: None,
            all: self,
        })
    }
}

/// One anonymous request while its body is read and taken.
pub(super) struct Stay<'a> {
    place: Place,
    room: Option<SemaphorePermit<'a>>,
    all: &'a Anonymous,
}

impl Stay<'_> {
    /// Waits until there is room for so many bytes more. Bodies that have been under way for long make it.
    async fn grow(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = loop {
            if let Ok(room) = self.all.bytes.try_acquire_many(bytes) {
                break room;
            }
            self.all.places.make_room();
            sleep(ROOM_PAUSE).await;
        };
        match &mut self.room {
            Some(held) => held.merge(room),
            None => self.room = Some(room),
        }
    }
}

/// Reads at most [`MAX_BODY`] bytes within `deadline`. An anonymous request may have to make room before that.
pub(super) async fn read(body: Body, headers: &HeaderMap, deadline: Duration, stay: Option<&mut Stay<'_>>) -> Result<Bytes, Rejected> {
    let Some(stay) = stay else {
        return read_all(body, headers, deadline, None).await;
    };
    let taken_back = stay.place.token();
    tokio::select! {
        biased;
        read = read_all(body, headers, deadline, Some(stay)) => read,
        () = taken_back.cancelled() => Err(Rejected::new(
            Rejection::SlowBody,
            "the body arrived slowly, and others without a key in their headers wait; send the key as `Authorization: Bearer <key>`",
        )),
    }
}

async fn read_all(mut body: Body, headers: &HeaderMap, deadline: Duration, mut stay: Option<&mut Stay<'_>>) -> Result<Bytes, Rejected> {
    let mut crowded = false;
    let read = async {
        let announced: Option<u64> = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if announced.is_none_or(|length| length <= MAX_BODY as u64)
            && let Some(bytes) = collect(&mut body, stay.as_deref_mut(), &mut crowded).await?
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
    let read = timeout(deadline, read).await;
    read.unwrap_or_else(|_| {
        Err(if crowded {
            Rejected::new(Rejection::Overloaded, "too many large requests at the same time").retry_after(COME_BACK)
        } else {
            Rejected::new(
                Rejection::SlowBody,
                format!("the body must arrive within {} s", deadline.as_secs_f64()),
            )
        })
    })
}

/// The whole body; none when it is too large.
/// `crowded` is set for as long as it waits for room.
async fn collect(body: &mut Body, mut stay: Option<&mut Stay<'_>>, crowded: &mut bool) -> Result<Option<Bytes>, Rejected> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Rejected::new(Rejection::NotJson, "the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        if let Some(stay) = stay.as_deref_mut() {
            *crowded = true;
            stay.grow(data.len()).await;
            *crowded = false;
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
