//! A network between a client and its broker that can be reset: both ends then get RST in the middle of whatever is
//! on its way.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Relays connections until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    resets: Arc<watch::Sender<u32>>,
    relaying: tokio::task::AbortHandle,
}

impl Proxy {
    /// A way to `host:port`.
    pub async fn to(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for clients")?;
        let address = listener.local_addr().context("read the own address")?;
        let resets = Arc::new(watch::Sender::new(0));
        let relaying = tokio::spawn(relay(listener, upstream.to_owned(), Arc::clone(&resets)));
        Ok(Self { address, resets, relaying: relaying.abort_handle() })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections there are; says how many.
    pub fn reset(&self) -> usize {
        let connections = self.resets.receiver_count();
        self.resets.send_modify(|resets| *resets += 1);
        connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}

async fn relay(listener: TcpListener, upstream: String, resets: Arc<watch::Sender<u32>>) {
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, reset) = (upstream.clone(), resets.subscribe());
        tokio::spawn(async move {
            // A client whose broker does not accept sees its connection closed, as behind a load balancer.
            if let Ok(broker) = TcpStream::connect(upstream).await {
                pass(client, broker, reset).await;
            }
        });
    }
}

async fn pass(mut client: TcpStream, mut broker: TcpStream, mut reset: watch::Receiver<u32>) {
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => {}
        Ok(()) = reset.changed() => {
            for stream in [client, broker] {
                // socket(7): closing a socket that does not linger sends RST. One that is closed already is no matter.
                let _ = stream.set_zero_linger();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn both_ends_of_a_reset_connection_get_an_error() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(&upstream.local_addr().unwrap().to_string()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut broker, _) = upstream.accept().await.unwrap();
        client.write_all(b"x").await.unwrap();
        assert_eq!(broker.read_u8().await.unwrap(), b'x');
        assert_eq!(proxy.reset(), 1);
        for end in [&mut client, &mut broker] {
            assert_eq!(end.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}
