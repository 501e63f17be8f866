//! The TCP port of one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Connection};
use crate::cluster::Cluster;

/// Pending connections, as pveproxy asks for (`listen 4096` is its library's default, the kernel caps it).
const BACKLOG: u32 = 4096;

/// Pause after an error of `accept` or `bind`, so that a lack of file descriptors does not spin.
const RETRY: Duration = Duration::from_millis(50);

/// Serves the API of one node, for as long as the node is up.
pub(crate) struct NodeListener {
    pub(crate) node: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) wanted: watch::Receiver<bool>,
    pub(crate) listening: watch::Sender<bool>,
}

impl NodeListener {
    /// Opens a port. With port 0 the system chooses one, and [`TcpListener::local_addr`] tells.
    pub(crate) fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
        hold(address)?.listen(BACKLOG)
    }

    /// Serves until shutdown.
    pub(crate) async fn run(mut self, cluster: Arc<Cluster>, mut listener: TcpListener) {
        loop {
            self.listening.send_replace(true);
            if !self.serve(&cluster, listener).await {
                return;
            }
            // A bound socket that does not listen refuses connections and keeps the port ours.
            let socket = self.insist(|| hold(self.address)).await;
            self.listening.send_replace(false);
            let back = async { self.wanted.wait_for(|wanted| *wanted).await.is_ok() };
            if !cluster.shutdown.run_until_cancelled(back).await.unwrap_or(false) {
                return;
            }
            drop(socket);
            listener = self.insist(|| Self::open(self.address)).await;
        }
    }

    /// Accepts connections; `true` when the node went down, `false` on shutdown.
    async fn serve(&mut self, cluster: &Arc<Cluster>, listener: TcpListener) -> bool {
        let cut = cluster.shutdown.child_token();
        // Connections end with this call, however it ends.
        let _guard = cut.clone().drop_guard();
        let mut wanted = self.wanted.clone();
        let down = async { wanted.wait_for(|wanted| !*wanted).await.is_ok() };
        tokio::pin!(down);
        loop {
            let accepted = tokio::select! {
                () = cluster.shutdown.cancelled() => return false,
                down = &mut down => return down,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection::accepted(Arc::clone(cluster), Arc::clone(&self.node), stream);
                    cluster
                        .running
                        .spawn(serve_until_cut(connection, self.acceptor.clone(), cut.clone()));
                }
                Err(error) => {
                    tracing::warn!(node = %self.node, %error, "cannot accept a connection");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Repeats what can only fail for a moment: sockets of cut connections are still closing.
    async fn insist<T>(&self, open: impl Fn() -> std::io::Result<T>) -> T {
        loop {
            match open() {
                Ok(socket) => return socket,
                Err(error) => tracing::warn!(node = %self.node, %error, "cannot bind the port again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn serve_until_cut(connection: Connection, acceptor: TlsAcceptor, cut: CancellationToken) {
    let _ = cut.run_until_cancelled(connection::serve(connection, acceptor)).await;
}

fn hold(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
