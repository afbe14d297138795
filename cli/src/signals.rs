//! The word to stop: SIGTERM from a kubelet, SIGINT from a keyboard.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let watched = token.clone();
    tokio::spawn(async move {
        let (Ok(mut term), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return tracing::error!("signals cannot be caught; the process ends without a drain");
        };
        either(&mut term, &mut interrupt).await;
        watched.cancel();
        either(&mut term, &mut interrupt).await;
        tracing::warn!("told twice, ending at once");
        std::process::exit(130);
    });
    token
}

async fn either(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
