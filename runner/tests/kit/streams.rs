//! A gateway's internal listener and a function, both played by a test piece by piece.

use std::path::Path;

use bytes::Bytes;
use funcatron_broker::message::{AnswerHead, AnswerHeadReader, Call, Offer, Token};
use futures::SinkExt;
use futures::channel::mpsc as pieces;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{eventually, soon};

/// A broken body.
#[derive(Debug, Clone, Copy)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken for a test")
    }
}

impl std::error::Error for Broken {}

type Piece = Result<Frame<Bytes>, Broken>;
type Pieces = StreamBody<pieces::Receiver<Piece>>;

/// Writes a body piece by piece; dropped, the body ends.
pub struct Writer(pieces::Sender<Piece>);

impl Writer {
    pub async fn write(&mut self, bytes: impl Into<Bytes>) {
        soon("room for a piece", self.0.send(Ok(Frame::data(bytes.into())))).await.unwrap();
    }

    /// Writes until nobody takes more; says how much was taken.
    pub async fn flood(&mut self, piece: &Bytes, pieces: usize, patience: std::time::Duration) -> usize {
        let mut taken = 0;
        while taken < pieces
            && let Ok(sent) =
                tokio::time::timeout(patience, self.0.send(Ok(Frame::data(piece.clone())))).await
        {
            sent.unwrap();
            taken += 1;
        }
        taken
    }

    pub async fn break_off(mut self) {
        soon("room for an end", self.0.send(Err(Broken))).await.unwrap();
    }

    /// Until nobody takes the body any more.
    pub async fn gone(&self) {
        let sender = self.0.clone();
        eventually("the body's taker leaves", async || sender.is_closed()).await;
    }
}

fn body() -> (Writer, Pieces) {
    let (sender, receiver) = pieces::channel(0);
    (Writer(sender), StreamBody::new(receiver))
}

/// What has come of a body; `None` at its end.
pub async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        let frame = soon("a piece", body.frame()).await?;
        match frame.map(|frame| frame.into_data().unwrap()) {
            Ok(piece) if piece.is_empty() => {}
            piece => return Some(piece),
        }
    }
}

/// A body to its end, or how it broke off.
pub async fn rest(body: &mut Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut all = Vec::new();
    while let Some(piece) = next(body).await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// Where runners open streams.
pub struct Listener {
    pub at: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    connections: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    _server: JoinSet<()>,
}

/// A runner that asks for a stream.
pub struct Asked {
    pub path: String,
    pub authorization: String,
    pub answer: Incoming,
    respond: oneshot::Sender<Response<Pieces>>,
}

/// A stream as the gateway has it.
pub struct Stream {
    pub answer: Incoming,
    pub body: Writer,
    read: Bytes,
}

impl Listener {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let (tell, asked) = mpsc::unbounded_channel();
        let connections = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let (counted, mut server) = (connections.clone(), JoinSet::new());
        server.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tell, counted) = (tell.clone(), counted.clone());
                let first = std::sync::Once::new();
                let service = service_fn(move |request| {
                    // A connection for a line, which is refused here, carries no stream.
                    first.call_once(|| {
                        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    });
                    ask(tell.clone(), request)
                });
                let io = TokioIo::new(stream);
                served.spawn(async move {
                    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                });
            }
        });
        Self { at, asked, connections, _server: server }
    }

    /// The next runner that asks.
    pub async fn asked(&mut self) -> Asked {
        soon("a runner asks for a stream", self.asked.recv()).await.unwrap()
    }

    /// The next stream, opened.
    pub async fn stream(&mut self) -> Stream {
        self.asked().await.open()
    }

    /// Connections that carried a stream.
    pub fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Offers a stream with a call; says its token.
    pub fn offer(&self, call: &mut Call, body: bool) -> String {
        let token = Token::fresh();
        call.direct = Some(Offer { at: self.at.clone(), token, body, line: false, upgrade: None });
        token.to_string()
    }
}

async fn ask(
    tell: mpsc::UnboundedSender<Asked>,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, oneshot::error::RecvError> {
    let (respond, response) = oneshot::channel();
    let (head, answer) = request.into_parts();
    let authorization = head.headers["authorization"].to_str().unwrap().to_owned();
    let path = format!("{} {}", head.method, head.uri.path());
    let _ = tell.send(Asked { path, authorization, answer, respond });
    response.await
}

impl Asked {
    /// Takes the stream.
    pub fn open(self) -> Stream {
        let Self { answer, respond, .. } = self;
        let (writer, pieces) = body();
        respond.send(Response::new(pieces)).unwrap();
        Stream { answer, body: writer, read: Bytes::new() }
    }

    pub fn refuse(self, status: StatusCode) {
        let response = Response::builder().status(status).body(body().1).unwrap();
        self.respond.send(response).unwrap();
    }
}

impl Stream {
    /// Ends the request's body.
    pub fn end_body(&mut self) {
        self.body = body().0;
    }

    /// Reads the answer's head.
    pub async fn head(&mut self) -> AnswerHead {
        let mut reader = AnswerHeadReader::default();
        loop {
            let piece = next(&mut self.answer).await.expect("an answer begins").unwrap();
            if let Some((head, first)) = reader.push(&piece).unwrap() {
                self.read = first;
                return head;
            }
        }
    }

    /// The next piece of the answer's body.
    pub async fn next(&mut self) -> Option<Bytes> {
        if !self.read.is_empty() {
            return Some(std::mem::take(&mut self.read));
        }
        next(&mut self.answer).await.map(|piece| piece.expect("the answer goes on"))
    }

    /// The rest of the answer's body, or how it broke off.
    pub async fn rest(&mut self) -> Result<Vec<u8>, hyper::Error> {
        let mut all = std::mem::take(&mut self.read).to_vec();
        all.extend_from_slice(&rest(&mut self.answer).await?);
        Ok(all)
    }
}

/// A function whose calls a test answers.
pub struct PlayedFunction {
    calls: mpsc::UnboundedReceiver<PlayedCall>,
    _server: JoinSet<()>,
}

/// A call that a test answers; dropped, its connection breaks.
pub struct PlayedCall {
    pub head: http::request::Parts,
    pub body: Incoming,
    respond: oneshot::Sender<Response<Pieces>>,
}

impl PlayedFunction {
    pub fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (tell, calls) = mpsc::unbounded_channel();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                let service = service_fn(move |request| call(tell.clone(), request));
                let io = TokioIo::new(stream);
                served.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Self { calls, _server: server }
    }

    pub async fn called(&mut self) -> PlayedCall {
        soon("the function is called", self.calls.recv()).await.unwrap()
    }

    pub fn is_idle(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

async fn call(
    tell: mpsc::UnboundedSender<PlayedCall>,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, oneshot::error::RecvError> {
    let (respond, response) = oneshot::channel();
    let (head, body) = request.into_parts();
    let _ = tell.send(PlayedCall { head, body, respond });
    response.await
}

impl PlayedCall {
    /// Begins the answer; the request's body may still be read.
    pub fn answer(self, status: u16, headers: &[(&str, &str)]) -> (Writer, Incoming) {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (writer, pieces) = body();
        self.respond.send(response.body(pieces).unwrap()).unwrap();
        (writer, self.body)
    }
}
