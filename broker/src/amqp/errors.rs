//! lapin's errors in the words of `LinkError` and `ConnectError`. Pure.

use lapin::protocol::AMQPError;
use lapin::{ChannelState, ErrorKind};

use crate::link::{ConnectError, LinkError};

/// What went wrong with an act about `name`.
pub(super) fn act(name: &str, error: &lapin::Error) -> LinkError {
    let (name, reason) = (name.to_owned(), text(error));
    match error.kind() {
        ErrorKind::ProtocolError(broker) => protocol(name, broker),
        ErrorKind::InvalidChannelState(ChannelState::Error, _)
        | ErrorKind::InvalidConnectionState(_)
        | ErrorKind::IOError(_)
        | ErrorKind::RuntimeShutdownError(_)
        | ErrorKind::MissingHeartbeatError => LinkError::Closed(reason),
        _ => LinkError::Channel { name, reason },
    }
}

fn protocol(name: String, broker: &AMQPError) -> LinkError {
    let reason = broker.get_message().to_string();
    match broker.get_id() {
        403 if reason.contains("exclusive") => LinkError::Locked { name, reason },
        403 => LinkError::Refused { name, reason },
        404 => LinkError::Missing { name, reason },
        405 => LinkError::Locked { name, reason },
        406 => LinkError::Mismatch { name, reason },
        // 320 and the 500s close the connection.
        320 | 500.. => LinkError::Closed(reason),
        _ => LinkError::Channel { name, reason },
    }
}

/// Why a connection could not be opened.
pub(super) fn connect(error: &lapin::Error) -> ConnectError {
    match error.kind() {
        ErrorKind::ProtocolError(broker) if broker.get_id() == 403 => ConnectError::Login(text(error)),
        ErrorKind::AuthProviderError(_) => ConnectError::Login(text(error)),
        _ => ConnectError::Unreachable(text(error)),
    }
}

/// The broker's words where there are any, else lapin's.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(broker) => broker.get_message().to_string(),
        _ => error.to_string(),
    }
}
