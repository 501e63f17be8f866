//! What a Kubernetes Service does: one port before several processes, of which only those that are ready get connections.

use super::http_get;
use anyhow::Result;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Between two looks at the readiness of each.
const LOOK: Duration = Duration::from_millis(300);
/// A connection without a byte for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// A process behind the Service.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Port of agents and people.
    pub listen: u16,
    /// Port of metrics and probes.
    pub metrics: u16,
}

impl Backend {
    /// Two ports that were free a moment ago.
    pub fn free() -> Result<Self> {
        let free = || -> io::Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
        Ok(Self {
            listen: free()?,
            metrics: free()?,
        })
    }
}

/// The port before them. It is closed with the value.
#[derive(Debug)]
pub struct Service {
    port: u16,
    ended: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
}

impl Service {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(backends: Vec<Backend>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (ended, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let ready = Arc::new(Mutex::new(Vec::new()));
        let (until, seen) = (ended.clone(), ready.clone());
        thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let now = backends.iter().filter(|b| is_ready(b)).map(|b| b.listen).collect::<Vec<u16>>();
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
                thread::sleep(LOOK);
            }
        });
        let (until, broken) = (ended.clone(), cut.clone());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let to = ready.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
                let to = to.filter(|_| !broken.load(Ordering::Relaxed));
                // Without one that is ready the connection is closed, as kube-proxy refuses it.
                let far = to.and_then(|port| TcpStream::connect_timeout(&address(port), Duration::from_secs(2)).ok());
                if let Some(far) = far {
                    join(near, far);
                }
            }
        });
        Ok(Self { port, ended, cut })
    }

    /// From now on new connections are closed, or led on again.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect_timeout(&address(self.port), Duration::from_secs(1));
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_ready(backend: &Backend) -> bool {
    http_get(backend.metrics, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Copies both ways, each until its end.
fn join(near: TcpStream, far: TcpStream) {
    let way = |from: &TcpStream, to: &TcpStream| -> io::Result<()> {
        from.set_read_timeout(Some(IDLE))?;
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        Ok(())
    };
    let _ = way(&near, &far).and_then(|()| way(&far, &near));
}
