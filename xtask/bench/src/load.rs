//! The load generator: as lean as it can be, as it shares the machine with what it measures. Requests are made beforehand, and only the times in them are
//! written anew; of each answer the status and the number of accepted reports are checked.

mod answer;
mod request;

pub use request::{Machine, Request, Stamp, bulk, single};

use answer::Answer;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// Longest wait for an answer. One that takes longer is a fault and ends the run.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read: that to an array without errors has some hundred bytes.
const LARGEST_ANSWER: usize = 64 * 1024;
/// Local addresses that new connections come from. A closed connection keeps its port for a minute, and each address has 28,000 of them.
const SOURCES: u8 = 32;

/// What was sent and accepted.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Reports that were accepted: all of them, or the run is a failure.
    pub reports: u64,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Sent {
    /// Reports a second.
    pub fn rate(&self) -> f64 {
        self.reports as f64 / self.took.as_secs_f64()
    }
}

struct Connection<'a> {
    stream: TcpStream,
    requests: &'a mut [Request],
    next: usize,
    left: usize,
    waits_for: Option<u64>,
    buffer: Vec<u8>,
}

impl Connection<'_> {
    fn send(&mut self, stamp: &Stamp) -> Result<()> {
        let Some(request) = self.requests.get_mut(self.next) else {
            return Ok(());
        };
        self.stream.write_all(request.stamped(stamp))?;
        self.waits_for = Some(request.reports());
        self.next = (self.next + 1) % self.requests.len();
        self.left -= 1;
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        let Some(expected) = self.waits_for.take() else { return Ok(0) };
        self.buffer.clear();
        let mut chunk = [0; 4096];
        loop {
            if let Some(answer) = Answer::parse(&self.buffer)? {
                answer.check(expected)?;
                return Ok(expected);
            }
            let n = self.stream.read(&mut chunk).context("no answer")?;
            grow(&mut self.buffer, chunk.get(..n).unwrap_or_default())?;
        }
    }
}

fn grow(buffer: &mut Vec<u8>, more: &[u8]) -> Result<()> {
    if more.is_empty() {
        bail!("the connection was closed before the answer was complete");
    }
    if buffer.len() + more.len() > LARGEST_ANSWER {
        bail!("the answer is larger than any that was expected");
    }
    buffer.extend_from_slice(more);
    Ok(())
}

/// Sends all requests `rounds` times over connections that stay open: on each, the next request follows the answer to the one before.
///
/// One thread serves all connections in turn: it needs two system calls a request, and while it waits for one connection the others are at work.
///
/// # Errors
/// When a request was not answered by 200 with all of its reports accepted.
pub fn keep_alive(to: SocketAddr, requests: &mut [Request], connections: usize, rounds: usize) -> Result<Sent> {
    let share = requests.len().div_ceil(connections).max(1);
    let mut open = Vec::new();
    for part in requests.chunks_mut(share) {
        let stream = TcpStream::connect(to).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        open.push(Connection {
            stream,
            left: part.len() * rounds,
            requests: part,
            next: 0,
            waits_for: None,
            buffer: Vec::with_capacity(1024),
        });
    }
    let mut stamp = Stamp::new();
    let mut accepted = 0;
    let began = Instant::now();
    loop {
        let mut busy = false;
        for connection in &mut open {
            accepted += connection.receive()?;
            if connection.left > 0 {
                stamp.refresh();
                connection.send(&stamp)?;
                busy = true;
            }
        }
        if !busy {
            break;
        }
    }
    Ok(Sent {
        reports: accepted,
        took: began.elapsed(),
    })
}

/// Sends all requests `rounds` times, each over a connection of its own, `at_once` of them at the same time.
///
/// # Errors
/// When a request was not answered by 200 with all of its reports accepted.
pub fn new_connections(to: SocketAddr, requests: &mut [Request], at_once: usize, rounds: usize) -> Result<Sent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let share = requests.len().div_ceil(at_once).max(1);
    let began = Instant::now();
    let accepted: Vec<Result<u64>> = runtime.block_on(async {
        let workers = requests
            .chunks_mut(share)
            .enumerate()
            .map(|(i, part)| one_by_one(to, part, rounds, i));
        futures::future::join_all(workers).await
    });
    let took = began.elapsed();
    let reports = accepted.into_iter().sum::<Result<u64>>()?;
    Ok(Sent { reports, took })
}

async fn one_by_one(to: SocketAddr, requests: &mut [Request], rounds: usize, worker: usize) -> Result<u64> {
    let mut stamp = Stamp::new();
    let mut accepted = 0;
    // Not .1, where everybody else is.
    let source = 2 + u8::try_from(worker % usize::from(SOURCES)).unwrap_or_default();
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, source)), 0);
    for _ in 0..rounds {
        for request in &mut *requests {
            stamp.refresh();
            let expected = request.reports();
            let exchange = exchange(from, to, request.stamped(&stamp));
            let answer = tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")??;
            answer.check(expected)?;
            accepted += expected;
        }
    }
    Ok(accepted)
}

async fn exchange(from: SocketAddr, to: SocketAddr, request: &[u8]) -> Result<Answer> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(request).await?;
    let (mut buffer, mut chunk) = (Vec::with_capacity(1024), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk).await?;
        grow(&mut buffer, chunk.get(..n).unwrap_or_default())?;
        if let Some(answer) = Answer::parse(&buffer)? {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server that answers each request with what `answer` says, and counts the requests.
    fn server(connections: usize, answer: &'static str) -> (SocketAddr, thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let mut count = 0;
            let mut open = Vec::new();
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                open.push(thread::spawn(move || {
                    let (mut seen, mut count, mut chunk) = (Vec::new(), 0, [0; 4096]);
                    loop {
                        let n = stream.read(&mut chunk).unwrap_or(0);
                        if n == 0 {
                            return count;
                        }
                        seen.extend_from_slice(&chunk[..n]);
                        // Each request of these tests ends with one report.
                        while let Some(end) = seen.windows(2).position(|w| w == b"}\n") {
                            seen.drain(..end + 2);
                            count += 1;
                            stream.write_all(answer.as_bytes()).unwrap();
                        }
                    }
                }));
            }
            for connection in open {
                count += connection.join().unwrap();
            }
            count
        };
        (address, thread::spawn(serve))
    }

    const ACCEPTED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n{\"accepted\":1,\"nextReportSeconds\":3}";

    fn requests(count: u32) -> Vec<Request> {
        (0..count)
            .map(|i| {
                single(
                    &Machine::new(&format!("vm-{i}"), uuid::Uuid::from_u128(i.into()), "key".into()),
                    "127.0.0.1:1",
                )
            })
            .collect()
    }

    #[test]
    fn every_request_is_sent_in_every_round() {
        let answer = ACCEPTED;
        let (to, server) = server(3, answer);
        let sent = keep_alive(to, &mut requests(7), 3, 4).unwrap();
        assert_eq!(sent.reports, 28);
        assert_eq!(server.join().unwrap(), 28);
    }

    #[test]
    fn each_request_has_a_connection_of_its_own() {
        let answer = ACCEPTED;
        let (to, server) = server(10, answer);
        let sent = new_connections(to, &mut requests(5), 2, 2).unwrap();
        assert_eq!(sent.reports, 10);
        assert_eq!(server.join().unwrap(), 10);
    }

    #[test]
    fn a_report_that_was_not_accepted_ends_the_run() {
        for answer in [
            "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"accepted\":0}",
        ] {
            let (to, _server) = server(1, answer);
            assert!(keep_alive(to, &mut requests(1), 1, 1).is_err(), "{answer}");
            let (to, _server) = server(1, answer);
            assert!(new_connections(to, &mut requests(1), 1, 1).is_err(), "{answer}");
        }
    }
}
