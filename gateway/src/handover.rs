//! What a connection goes on as once HTTP is over on it. Never knows how it came to that.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::direct::Tunnel;
use crate::line::Line;

/// Who carries a connection on.
pub(crate) enum Handover {
    /// A client's, tied to its runner's stream.
    Tunnel(Tunnel),
    /// A runner's, for its replies.
    Line(Line),
}

impl Handover {
    /// Carries until it is over. A drain waits for a client's connection as for an answer, and ends a line.
    pub(crate) async fn run(
        self,
        connection: impl AsyncRead + AsyncWrite + Unpin,
        drain: &CancellationToken,
    ) {
        match self {
            Self::Tunnel(tunnel) => tunnel.run(connection).await,
            Self::Line(line) => line.run(connection, drain).await,
        }
    }
}
