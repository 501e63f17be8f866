//! The answers of the receiver, read as far as a load generator needs them.

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    /// `accepted` of the body, where there is one.
    accepted: Option<u64>,
    /// The body, for a message.
    shown: String,
}

impl Answer {
    /// Reads an answer; none while it is not complete.
    ///
    /// # Errors
    /// When it is no answer of HTTP/1.1 with a length.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let (head, body) = bytes.split_at(end + 4);
        let status = head
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(digits)
            .context("no answer of HTTP/1.1")?;
        let length = header(head, b"content-length:").context("an answer without a length")?;
        let length = usize::try_from(length)?;
        if body.len() < length {
            return Ok(None);
        }
        if body.len() > length {
            bail!("more than one answer");
        }
        let ok = status == 200;
        Ok(Some(Self {
            status: u16::try_from(status)?,
            accepted: after(body, b"\"accepted\":").and_then(leading_digits),
            // Only failures are shown, and only they are copied.
            shown: if ok {
                String::new()
            } else {
                String::from_utf8_lossy(body).into_owned()
            },
        }))
    }

    /// That all reports were accepted.
    ///
    /// # Errors
    /// When they were not.
    pub fn check(&self, expected: u64) -> Result<()> {
        if self.status == 200 && self.accepted == Some(expected) {
            return Ok(());
        }
        bail!(
            "{expected} reports were sent, the answer is {} with {} accepted {}",
            self.status,
            self.accepted.map_or_else(|| "none".into(), |n| n.to_string()),
            self.shown
        )
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn after<'a>(bytes: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    bytes.get(find(bytes, what)? + what.len()..)
}

/// The number in a header; names are in any case.
fn header(head: &[u8], name: &[u8]) -> Option<u64> {
    let line = head
        .split(|b| *b == b'\n')
        .find(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))?;
    leading_digits(line.get(name.len()..)?.trim_ascii_start())
}

fn leading_digits(bytes: &[u8]) -> Option<u64> {
    let end = bytes.iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len());
    digits(bytes.get(..end)?)
}

fn digits(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 39\r\n\r\n{\"accepted\":12,\"nextReportSeconds\":300}";

    #[test]
    fn an_answer_is_read_only_when_it_is_complete() {
        for end in 0..WHOLE.len() {
            assert_eq!(Answer::parse(&WHOLE[..end]).unwrap(), None, "{end}");
        }
        let answer = Answer::parse(WHOLE).unwrap().unwrap();
        answer.check(12).unwrap();
        assert!(answer.check(13).is_err());
    }

    #[test]
    fn a_refusal_shows_its_words() {
        let refused = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 23\r\n\r\n{\"title\":\"TooOften\",  }";
        let error = Answer::parse(refused).unwrap().unwrap().check(1).unwrap_err().to_string();
        assert!(error.contains("429") && error.contains("TooOften"), "{error}");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(Answer::parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Answer::parse(&[WHOLE, b"x"].concat()).is_err());
    }
}
