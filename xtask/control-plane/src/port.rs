//! A TCP port of 127.0.0.1 that nobody else can take.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

use crate::Error;
use crate::error::Tried;

/// Holds a port by a socket that is bound to it but does not listen.
///
/// kube-apiserver listens on the same port with `--permit-port-sharing` (SO_REUSEPORT on both). The usual way, to ask for a free
/// port, let go of it and pass its number on, loses the port now and then to another test. Held like this it also stays ours
/// while the API server is stopped, and clients that connect meanwhile are refused, as they should be.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    number: u16,
    _socket: OwnedFd,
}

impl ReservedPort {
    pub(crate) fn new() -> Result<Self, Error> {
        let reserve = || -> rustix::io::Result<(SocketAddrV4, OwnedFd)> {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::empty(), None)?;
            rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
            let address = getsockname(&socket)?.try_into()?;
            Ok((address, socket))
        };
        let (address, socket) = reserve().tried("reserve a port of", Ipv4Addr::LOCALHOST.to_string())?;
        Ok(Self {
            number: address.port(),
            _socket: socket,
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_clients_and_other_servers() {
        let port = ReservedPort::new().unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.number());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        let number = port.number();
        drop(port);
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
    }

    #[test]
    fn two_reservations_are_two_ports() {
        let ports: Vec<ReservedPort> = (0..50).map(|_| ReservedPort::new().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(ReservedPort::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}
