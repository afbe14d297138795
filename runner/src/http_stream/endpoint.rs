//! Where a function listens, and the way there. Sends nothing by itself.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::contract::Contract;
use super::socket::{self, ConnectError};
use crate::config::Endpoint;

/// The pod's own addresses, in both families: a server told to listen on `localhost` may have chosen either.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Within a pod a connection is made in microseconds: a server that takes none for so long has its backlog full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a function.
pub(crate) type Stream = Either<UnixStream, TcpStream>;

impl Endpoint {
    /// What is spoken there.
    pub(crate) const fn contract(&self) -> Contract {
        match self {
            Self::Fn(_) => Contract::Fn,
            Self::Http(_) => Contract::Http,
        }
    }

    /// Connects. Where this fails, no byte of a request has left.
    pub(crate) async fn connect(&self) -> Result<Stream, ConnectError> {
        match self {
            Self::Fn(socket) => socket::connect(socket).await.map(Either::Left),
            Self::Http(port) => {
                let addresses = LOOPBACK.map(|address| SocketAddr::new(address, *port));
                let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(&addresses[..])).await;
                let connected = connecting.unwrap_or_else(|late| Err(io::Error::from(late)));
                let stream = connected.map_err(ConnectError::Connect)?;
                stream.set_nodelay(true).map_err(ConnectError::Connect)?;
                Ok(Either::Right(stream))
            }
        }
    }

    /// Removes what a killed process has left: its socket. A port is the kernel's to free.
    pub(crate) fn remove_stale(&self) -> Result<(), ConnectError> {
        match self {
            Self::Fn(socket) => socket::remove_stale(socket),
            Self::Http(_) => Ok(()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fn(socket) => write!(f, "{}", socket.display()),
            Self::Http(port) => write!(f, "port {port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_is_found_on_either_loopback_address() {
        let mut met = 0;
        for address in LOOPBACK {
            // A machine without IPv6 has one of them.
            let Ok(listener) = TcpListener::bind((address, 0)).await else { continue };
            let endpoint = Endpoint::Http(listener.local_addr().unwrap().port());
            let (connected, accepted) = tokio::join!(endpoint.connect(), listener.accept());
            assert!(connected.is_ok() && accepted.is_ok(), "{address}");
            met += 1;
        }
        assert!(met > 0);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_refuses() {
        let listener = TcpListener::bind((LOOPBACK[0], 0)).await.unwrap();
        let endpoint = Endpoint::Http(listener.local_addr().unwrap().port());
        drop(listener);
        assert!(matches!(endpoint.connect().await, Err(ConnectError::Connect(_))));
    }
}
