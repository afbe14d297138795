//! A runner's side of a stream, and a client whose bodies come piece by piece.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::link::Delivery;
use funcatron_broker::message::{AnswerHead, Call, Offer, Token};
use funcatron_gateway::{HostPolicy, Limits};
use futures::SinkExt;
use futures::channel::mpsc;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::*;

/// Far above what goes in a message.
pub(crate) const LARGE: usize = 300_000;
/// What the App of these tests takes.
pub(crate) const LIMIT: usize = 400_000;

/// A broken body.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken for a test")
    }
}

impl std::error::Error for Broken {}

type Piece = Result<Frame<Bytes>, Broken>;
pub(crate) type Pieces = StreamBody<mpsc::Receiver<Piece>>;

/// Writes a body piece by piece; dropped, the body ends.
pub(crate) struct Writer(mpsc::Sender<Piece>);

pub(crate) fn pieces() -> (Writer, Pieces) {
    let (sender, receiver) = mpsc::channel(0);
    (Writer(sender), StreamBody::new(receiver))
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: impl Into<Bytes>) {
        soon(self.0.send(Ok(Frame::data(bytes.into())))).await.unwrap();
    }

    pub(crate) async fn break_off(mut self) {
        soon(self.0.send(Err(Broken))).await.unwrap();
    }

    /// Until nobody takes the body any more.
    pub(crate) async fn gone(&self) {
        let sender = self.0.clone();
        eventually(async || sender.is_closed()).await;
    }
}

/// What has come of a body. (HTTP/2 may say its end with an empty piece.)
pub(crate) async fn next(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let piece = soon(body.frame()).await?.expect("the body goes on").into_data().unwrap();
        if !piece.is_empty() {
            return Some(piece);
        }
    }
}

/// Reads a body to its end; `Err` where it breaks off.
pub(crate) async fn rest(body: Incoming) -> Result<Bytes, hyper::Error> {
    soon(body.collect()).await.map(|body| body.to_bytes())
}

/// A client's connection, which ends when this is dropped.
pub(crate) struct Client {
    sender: http1::SendRequest<Pieces>,
    connection: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, connection }
    }

    /// Sends a request whose body is still to be written.
    pub(crate) fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Pieces,
    ) -> impl Future<Output = Result<Response<Incoming>, hyper::Error>> + Send + use<> {
        let request = Request::builder().method(method).uri(path).header("host", HOST).body(body).unwrap();
        self.sender.send_request(request)
    }
}

/// A GET over HTTP/2 whose client takes no byte of an answer's body.
pub(crate) async fn h2_without_window(
    to: SocketAddr,
    path: &str,
) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<Result<Response<Incoming>, hyper::Error>>) {
    let stream = TcpStream::connect(to).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(0);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{HOST}{path}")).body(Full::default()).unwrap();
    let asking = tokio::spawn(sender.send_request(request));
    (sender, asking)
}

/// A stream as the runner has it.
pub(crate) struct Played {
    pub(crate) answer: Writer,
    pub(crate) body: Incoming,
    connection: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Played {
    /// Begins the answer.
    pub(crate) async fn head(&mut self, status: StatusCode, headers: HeaderMap) {
        let head = AnswerHead { status, headers }.to_bytes().unwrap();
        self.answer.write(head).await;
    }

    pub(crate) async fn ok(&mut self) {
        self.head(StatusCode::OK, HeaderMap::new()).await;
    }
}

/// The stream that was offered with a call.
pub(crate) fn offer(call: &Call) -> Offer {
    call.direct.clone().expect("a stream was offered")
}

/// Asks for a stream; says the status where there is none.
pub(crate) async fn open_with(to: &str, call: &Call, token: &str) -> Result<Played, u16> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let (answer, body) = pieces();
    let request = Request::post(format!("http://{to}/direct/{}", call.id))
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(body)
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    match response.status() {
        StatusCode::OK => Ok(Played { answer, body: response.into_body(), connection }),
        refused => Err(refused.as_u16()),
    }
}

/// Opens a call's stream.
pub(crate) async fn open(call: &Call) -> Played {
    let Offer { at, token, .. } = offer(call);
    open_with(&at, call, &token.to_string()).await.expect("the token is right")
}

/// Whether a call's own token opens nothing.
pub(crate) async fn is_void(call: &Call) -> bool {
    let Offer { at, token, .. } = offer(call);
    open_with(&at, call, &token.to_string()).await.is_err_and(|status| status == 403)
}

/// A gateway whose App takes larger bodies.
pub(crate) async fn fixture() -> Fixture {
    with(Limits::default()).await
}

pub(crate) async fn with(limits: Limits) -> Fixture {
    let fixture = Fixture::with(HostPolicy::Strict, limits).await;
    let mut table = app("00000001");
    table.bounds.body_bytes_max = LIMIT as u64;
    fixture.tables.put_app("team-a", "shop", Some(table)).unwrap();
    fixture
}

/// A call that came, and its delivery settled.
pub(crate) async fn taken(runner: &mut Runner) -> Call {
    let (call, delivery): (Call, Delivery) = runner.take().await;
    delivery.ack().await.unwrap();
    call
}

/// Some other token.
pub(crate) fn guess() -> String {
    Token::fresh().to_string()
}

/// Long, and yet over within a test.
pub(crate) const BRIEF: Duration = Duration::from_millis(300);

/// Bytes that are not all the same.
pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Nothing is written.
pub(crate) fn empty() -> Pieces {
    let (_, body) = pieces();
    body
}
