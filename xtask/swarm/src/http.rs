//! As much of an HTTP/1.1 client as an agent needs, over plain TCP. Written out by hand because a client library costs some 20 KiB for each connection, and much
//! of the two cores that the server under test shall have.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer that is read. An honest one has a few hundred bytes; that to an array with an error for each item is the longest.
const MAX_ANSWER: usize = 1 << 20;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
    /// Whether the server closes the connection.
    pub closes: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Sends a request whose bytes [`post`] made, and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is none of HTTP/1.1 with a `Content-Length`. The connection is of no use then.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let mut bytes = Vec::with_capacity(512);
        loop {
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((mut answer, head, length)) = parse(&bytes)? {
                let end = head + length;
                while bytes.len() < end {
                    if self.stream.read_buf(&mut bytes).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                answer.body = bytes.drain(..end).skip(head).collect();
                return Ok(answer);
            }
        }
    }
}

/// A POST of JSON with a key, as curl would send it for the agent.
pub fn post(target: SocketAddr, path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: defib-agent/0.1.0\r\nAccept: application/json, application/problem+json\r\n\
         Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of an answer, its length and that of the body, when it is there as a whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize, usize)>> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > MAX_ANSWER {
            Err(odd("a head without end"))
        } else {
            Ok(None)
        };
    };
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).map_err(|_| odd("a head that is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.get(2..5))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| odd("not HTTP/1.x"))?;
    let mut answer = Answer {
        status,
        retry_after: None,
        closes: false,
        body: Vec::new(),
    };
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("retry-after") {
            answer.retry_after = value.parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes = value.eq_ignore_ascii_case("close");
        }
    }
    match length {
        Some(length) if length <= MAX_ANSWER => Ok(Some((answer, end + 4, length))),
        _ => Err(odd("no Content-Length, or a huge one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_its_head_is_complete() {
        let text =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: x\r\nRetry-After: 5\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let (answer, head, length) = parse(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.retry_after, answer.closes), (503, Some(5), true));
        assert_eq!(&text[head..head + length], b"{}");
        assert_eq!(parse(&text[..40]).unwrap(), None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in [
            &b"SSH-2.0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
        ] {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }
}
