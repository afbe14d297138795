//! A gateway's internal listener as lines know it, played by a test word by word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use funcatron_broker::message::{
    Call, CallId, FromRunner, Offer, Reply, Token, put_body, put_taken, take_from_runner,
};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::gateway::names;
use super::soon;

/// Where runners open lines.
pub struct LineListener {
    pub at: SocketAddr,
    asked: mpsc::UnboundedReceiver<AskedLine>,
    connections: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

/// A runner that asks for a line.
pub struct AskedLine {
    pub head: http::request::Parts,
    upgrade: OnUpgrade,
    respond: oneshot::Sender<Response<Empty<Bytes>>>,
}

/// A line as the gateway has it; dropped, its connection breaks.
pub struct PlayedLine {
    stream: TokioIo<Upgraded>,
    bytes: BytesMut,
}

impl LineListener {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (tell, asked) = mpsc::unbounded_channel();
        let (connections, mut server) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let counted = Arc::clone(&connections);
        server.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let tell = tell.clone();
                let service = service_fn(move |request| ask(tell.clone(), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                served.spawn(async move {
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        Self { at, asked, connections, _server: server }
    }

    /// Offers a stream with a call, and so a line; says its token.
    pub fn offer(&self, call: &mut Call) -> Token {
        let token = Token::fresh();
        call.direct = Some(Offer { at: self.at.to_string(), token, body: false, line: false, upgrade: None });
        token
    }

    /// A runner that has asked by now.
    pub fn try_asked(&mut self) -> Option<AskedLine> {
        self.asked.try_recv().ok()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn ask(
    tell: mpsc::UnboundedSender<AskedLine>,
    mut request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, oneshot::error::RecvError> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (respond, response) = oneshot::channel();
    let _ = tell.send(AskedLine { head: request.into_parts().0, upgrade, respond });
    response.await
}

impl AskedLine {
    /// The call that it is asked with.
    pub fn call(&self) -> &str {
        self.head.uri.path().strip_prefix("/line/").expect("the path of a line")
    }

    pub async fn open(self) -> PlayedLine {
        let Self { upgrade, respond, .. } = self;
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let response = response.header("connection", "upgrade").header("upgrade", "funcatron-line");
        respond.send(response.body(Empty::new()).unwrap()).unwrap();
        let stream = TokioIo::new(soon("the runner switches", upgrade).await.unwrap());
        PlayedLine { stream, bytes: BytesMut::new() }
    }

    pub fn refuse(self, status: StatusCode) {
        self.respond.send(Response::builder().status(status).body(Empty::new()).unwrap()).unwrap();
    }
}

impl PlayedLine {
    /// The next reply; nothing is lost where somebody stops waiting for it.
    pub async fn next(&mut self) -> Reply {
        let names = names();
        loop {
            match take_from_runner(&mut self.bytes, names.user()).unwrap() {
                Some(FromRunner::Reply(reply)) => return reply.unwrap(),
                Some(FromRunner::Want(id, _)) => panic!("a reply is awaited, and {id} is wanted"),
                None => {}
            }
            let read = soon("a reply on the line", self.stream.read_buf(&mut self.bytes)).await.unwrap();
            assert!(read > 0, "the runner has ended the line");
        }
    }

    /// Says how many replies were taken since the line was opened.
    pub async fn say_taken(&mut self, count: u64) {
        let mut word = BytesMut::new();
        put_taken(count, &mut word);
        self.say(&word).await;
    }

    /// The next call whose body is wanted, and with which token.
    pub async fn wanted(&mut self) -> (CallId, Token) {
        let names = names();
        loop {
            match take_from_runner(&mut self.bytes, names.user()).unwrap() {
                Some(FromRunner::Want(id, token)) => return (id, token),
                Some(FromRunner::Reply(reply)) => panic!("a body is to be wanted, and {reply:?} comes"),
                None => {}
            }
            let read = soon("a word on the line", self.stream.read_buf(&mut self.bytes)).await.unwrap();
            assert!(read > 0, "the runner has ended the line");
        }
    }

    /// Gives a call's body, or none.
    pub async fn give(&mut self, id: CallId, body: Option<&Bytes>) {
        let mut word = BytesMut::new();
        put_body(id, body, &mut word);
        self.say(&word).await;
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Until the runner has ended it; nothing more comes before.
    pub async fn ended(mut self) {
        let read = soon("the line's end", self.stream.read_buf(&mut self.bytes)).await;
        assert!(matches!(read, Ok(0) | Err(_)) && self.bytes.is_empty(), "{read:?}");
    }
}
