//! Lines: replies that a runner, played by a test, sends past the broker.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use funcatron_broker::link::{Connector, ConsumeOptions};
use funcatron_broker::message::{
    Call, CallId, FromGateway, Offer, Outcome, Reply, Token, put_reply, put_want, take_from_gateway,
};
use funcatron_broker::names::AppNames;
use funcatron_broker::topology;
use funcatron_gateway::{HostPolicy, Limits};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::connections::raw;
use crate::streams;
use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);
/// Another App's host.
const OTHER_HOST: &str = "till.example.com";

/// A line as the runner has it; dropped, its connection ends.
struct Line {
    stream: TcpStream,
    bytes: BytesMut,
    taken: u64,
}

impl Line {
    async fn send(&mut self, replies: &[Reply]) {
        let mut bytes = BytesMut::new();
        replies.iter().for_each(|reply| put_reply(reply, &mut bytes));
        self.write(&bytes).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Until the gateway says that it has taken so many since the line was opened.
    async fn taken(&mut self, count: u64) {
        while self.taken < count {
            let read = soon(self.stream.read_buf(&mut self.bytes)).await.unwrap();
            assert!(read > 0, "the gateway has ended the line after {} replies", self.taken);
            while let Some(frame) = take_from_gateway(&mut self.bytes).unwrap() {
                let FromGateway::Taken(count) = frame else { panic!("nobody wanted a body: {frame:?}") };
                self.taken = count;
            }
        }
        assert_eq!(self.taken, count);
    }

    /// What the gateway gives of a call's body.
    async fn fetch(&mut self, id: CallId, token: Token) -> Option<Bytes> {
        let mut bytes = BytesMut::new();
        put_want(id, token, &mut bytes);
        self.write(&bytes).await;
        loop {
            match take_from_gateway(&mut self.bytes).unwrap() {
                Some(FromGateway::Body(given, body)) => {
                    assert_eq!(given, id);
                    return body;
                }
                Some(FromGateway::Taken(count)) => self.taken = count,
                None => assert!(soon(self.stream.read_buf(&mut self.bytes)).await.unwrap() > 0),
            }
        }
    }

    /// Until the gateway has ended it; it says nothing more before.
    async fn ended(&mut self) {
        let read = soon(self.stream.read_buf(&mut self.bytes)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

/// Asks for a line; says the status where there is none.
async fn open_with(to: &str, id: &str, token: &str) -> Result<Line, u16> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "GET /line/{id} HTTP/1.1\r\nhost: {to}\r\nconnection: upgrade\r\nupgrade: funcatron-line\r\n\
         authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = BytesMut::new();
    let end = loop {
        assert!(soon(stream.read_buf(&mut bytes)).await.unwrap() > 0, "an answer comes");
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes.split_to(end).to_vec()).unwrap().to_lowercase();
    match head.split(' ').nth(1).unwrap().parse().unwrap() {
        101 => {
            assert!(head.contains("\r\nupgrade: funcatron-line\r\n"), "{head}");
            assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
            Ok(Line { stream, bytes, taken: 0 })
        }
        refused => Err(refused),
    }
}

/// Asks for a line with what a call offers.
async fn open(call: &Call) -> Result<Line, u16> {
    let Offer { at, token, .. } = streams::offer(call);
    open_with(&at, &call.id.to_string(), &token.to_string()).await
}

/// A client that waits for its answer.
fn asking(fixture: &Fixture, path: &'static str) -> JoinHandle<Answer> {
    let to = fixture.public;
    tokio::spawn(async move { get(to, HOST, path).await })
}

/// A call that waits, its delivery settled; and its client.
async fn waiting(fixture: &Fixture, runner: &mut Runner) -> (Call, JoinHandle<Answer>) {
    let client = asking(fixture, "/page");
    (streams::taken(runner).await, client)
}

async fn answer(client: JoinHandle<Answer>) -> (u16, String) {
    let answer = soon(client).await.unwrap();
    (answer.status, answer.text())
}

fn words(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

async fn lines(fixture: &Fixture) -> f64 {
    fixture.metric("funcatron_gateway_lines").await
}

#[tokio::test]
async fn a_reply_over_the_line_answers_its_call_and_is_counted() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (first, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&first).await.unwrap();
    assert_eq!(fixture.metric("funcatron_gateway_lines_opened_total").await, 1.0);
    assert_eq!(lines(&fixture).await, 1.0);
    let mut made = reply(&first, Outcome::Answer(StatusCode::CREATED), "over the line");
    made.headers.insert("x-way", "line".parse().unwrap());
    line.send(&[made]).await;
    line.taken(1).await;
    let got = soon(client).await.unwrap();
    assert_eq!((got.status, got.text().as_str()), (201, "over the line"));
    assert_eq!(
        (&got.headers["x-way"], &got.headers["fn-call-id"]),
        (&"line".parse().unwrap(), &first.id.to_string().parse().unwrap())
    );

    let (second, client) = waiting(&fixture, &mut runner).await;
    let (third, failed) = waiting(&fixture, &mut runner).await;
    line.send(&[reply(&second, OK, "two"), reply(&third, Outcome::Failed, "broken")]).await;
    line.taken(3).await;
    assert_eq!(answer(client).await, words(200, "two"));
    assert_eq!(soon(failed).await.unwrap().status, 502);
    for counted in ["replies_late", "replies_forged", "lines_refused"] {
        assert_eq!(fixture.metric(&format!("funcatron_gateway_{counted}_total")).await, 0.0, "{counted}");
    }
    drop(line);
    eventually(async || lines(&fixture).await == 0.0).await;
}

#[tokio::test]
async fn a_reply_that_comes_in_pieces_is_taken_once_it_is_whole() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&call).await.unwrap();
    let mut bytes = BytesMut::new();
    put_reply(&Reply { body: streams::bytes(60_000), ..reply(&call, OK, "") }, &mut bytes);
    for piece in bytes.chunks(7_001) {
        assert!(!client.is_finished());
        line.write(piece).await;
    }
    line.taken(1).await;
    assert!(soon(client).await.unwrap().body == streams::bytes(60_000));
}

#[tokio::test]
async fn a_reply_that_nobody_waits_for_any_more_is_taken_as_well() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&call).await.unwrap();
    line.send(&[reply(&call, OK, "first"), reply(&call, OK, "again")]).await;
    line.taken(2).await;
    assert_eq!(answer(client).await, words(200, "first"));
    assert_eq!(fixture.metric("funcatron_gateway_replies_late_total").await, 1.0);
}

#[tokio::test]
async fn a_token_opens_one_line_while_its_call_waits_and_cannot_be_guessed() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (first, client) = waiting(&fixture, &mut runner).await;
    let (second, _other) = waiting(&fixture, &mut runner).await;
    let (at, right) = (streams::offer(&first).at, streams::offer(&first).token.to_string());
    let id = first.id.to_string();
    for wrong in ["", "x", &streams::guess(), &right[1..], &streams::offer(&second).token.to_string()] {
        assert_eq!(open_with(&at, &id, wrong).await.err(), Some(403), "{wrong}");
    }
    for wrong in ["", "x", &second.id.to_string()] {
        assert_eq!(open_with(&at, wrong, &right).await.err(), Some(403), "{wrong}");
    }
    let mut line = open(&first).await.unwrap();
    assert_eq!(open(&first).await.err(), Some(403), "a token opens one line");
    line.send(&[reply(&first, OK, "done")]).await;
    assert_eq!(answer(client).await, words(200, "done"));
    assert_eq!(open(&first).await.err(), Some(403), "the call was answered");
    let (brief, late) = tokio::join!(async { streams::taken(&mut runner).await }, fixture.get("/brief"));
    assert_eq!(late.status, 504);
    assert_eq!(open(&brief).await.err(), Some(403), "its deadline has passed");
    assert_eq!(fixture.metric("funcatron_gateway_lines_refused_total").await, 11.0);
    assert_eq!(fixture.metric("funcatron_gateway_lines_opened_total").await, 1.0);
}

#[tokio::test]
async fn a_call_whose_token_opened_a_line_may_still_open_its_stream_and_not_the_other_way_round() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let _line = open(&call).await.unwrap();
    let mut stream = streams::open(&call).await;
    assert_eq!(open(&call).await.err(), Some(403));
    stream.ok().await;
    stream.answer.write("over the stream").await;
    drop(std::mem::replace(&mut stream.answer, streams::pieces().0));
    assert_eq!(answer(client).await, words(200, "over the stream"));

    let (call, _client) = waiting(&fixture, &mut runner).await;
    let _stream = streams::open(&call).await;
    assert_eq!(open(&call).await.err(), Some(403), "an open stream answers its call by itself");
}

/// A second App of the same namespace, with one Fn on a host of its own; a call of it that waits.
async fn other_app(fixture: &Fixture) -> (Call, JoinHandle<Answer>) {
    let mut table = app("00000001");
    table.app = "till".into();
    fixture.tables.put_app("team-a", "till", Some(table)).unwrap();
    let site = route("till", "till", &[OTHER_HOST.to_owned()], &[rule(None, "/page", "page", None)]);
    fixture.tables.put_route("team-a", "till", Some(site)).unwrap();
    let names = AppNames::new(&installation(), "team-a", "till").unwrap();
    let link = fixture.broker.local.connect().await.unwrap();
    link.declare(&topology::app(&names)).await.unwrap();
    link.declare(&topology::revision(&names, &revision("00000001")).unwrap()).await.unwrap();
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let calls = link.consume(&names.revision_queue(&revision("00000001")).unwrap(), options).await.unwrap();
    let to = fixture.public;
    let client = tokio::spawn(async move { get(to, OTHER_HOST, "/page").await });
    (streams::taken(&mut Runner { link, calls }).await, client)
}

#[tokio::test]
async fn a_line_of_one_app_cannot_answer_another_apps_call() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (victim, client) = waiting(&fixture, &mut runner).await;
    let (own, own_client) = other_app(&fixture).await;
    let mut line = open(&own).await.unwrap();
    // What a runner says of itself does not count: this reply names the victim's user.
    line.send(&[reply(&victim, OK, "forged"), reply(&own, OK, "own")]).await;
    line.taken(2).await;
    assert_eq!(fixture.metric("funcatron_gateway_replies_forged_total").await, 1.0);
    assert_eq!(answer(own_client).await, words(200, "own"));
    assert!(!client.is_finished(), "it waits on");
    runner.reply(&victim, reply(&victim, OK, "right")).await;
    assert_eq!(answer(client).await, words(200, "right"));
}

#[tokio::test]
async fn an_attempt_that_was_never_made_is_forged_on_a_line_too() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&call).await.unwrap();
    line.send(&[Reply { attempt: 2, ..reply(&call, OK, "forged") }]).await;
    line.taken(1).await;
    assert_eq!(fixture.metric("funcatron_gateway_replies_forged_total").await, 1.0);
    line.send(&[reply(&call, OK, "right")]).await;
    assert_eq!(answer(client).await, words(200, "right"));
}

#[tokio::test]
async fn nonsense_on_a_line_hurts_no_reply_beside_it() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (spoilt, told) = waiting(&fixture, &mut runner).await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&call).await.unwrap();
    let mut bytes = BytesMut::new();
    put_reply(&reply(&spoilt, OK, ""), &mut bytes);
    // Behind kind, length, id and attempt stands the status.
    bytes[25..27].copy_from_slice(&99_u16.to_be_bytes());
    bytes.put_slice(&[1, 0, 0, 0, 0]);
    put_reply(&reply(&call, OK, "fine"), &mut bytes);
    line.write(&bytes).await;
    line.taken(3).await;
    assert_eq!(answer(client).await, words(200, "fine"));
    assert_eq!(soon(told).await.unwrap().status, 502, "a call hears of the nonsense that names it");
    assert_eq!(fixture.metric("funcatron_gateway_replies_forged_total").await, 1.0);
}

#[tokio::test]
async fn a_record_beyond_the_bound_ends_its_line_and_harms_nobody() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let (next, other) = waiting(&fixture, &mut runner).await;
    let (mut line, mut beside) = (open(&call).await.unwrap(), open(&next).await.unwrap());
    line.write(&[&[1][..], &90_000_u32.to_be_bytes()].concat()).await;
    line.ended().await;
    eventually(async || lines(&fixture).await == 1.0).await;
    runner.reply(&call, reply(&call, OK, "through the broker")).await;
    assert_eq!(answer(client).await, words(200, "through the broker"));
    beside.send(&[reply(&next, OK, "over the other")]).await;
    assert_eq!(answer(other).await, words(200, "over the other"));
}

#[tokio::test]
async fn lines_have_places_that_are_free_again_when_they_end() {
    for limits in
        [Limits { app_lines_max: 1, ..Limits::default() }, Limits { lines_max: 1, ..Limits::default() }]
    {
        let fixture = Fixture::with(HostPolicy::Strict, limits).await;
        let mut runner = fixture.runner("00000001").await;
        let (first, _client) = waiting(&fixture, &mut runner).await;
        let (second, client) = waiting(&fixture, &mut runner).await;
        let line = open(&first).await.unwrap();
        assert_eq!(open(&second).await.err(), Some(503));
        assert_eq!(lines(&fixture).await, 1.0);
        drop(line);
        eventually(async || lines(&fixture).await == 0.0).await;
        let mut line = open(&second).await.expect("a token that found no place stays good");
        line.send(&[reply(&second, OK, "done")]).await;
        assert_eq!(answer(client).await, words(200, "done"));
    }
}

#[tokio::test]
async fn an_app_with_all_its_lines_leaves_others_theirs() {
    let limits = Limits { app_lines_max: 1, ..Limits::default() };
    let fixture = Fixture::with(HostPolicy::Strict, limits).await;
    let mut runner = fixture.runner("00000001").await;
    let (first, _client) = waiting(&fixture, &mut runner).await;
    let _line = open(&first).await.unwrap();
    let (own, client) = other_app(&fixture).await;
    let mut line = open(&own).await.unwrap();
    line.send(&[reply(&own, OK, "own")]).await;
    assert_eq!(answer(client).await, words(200, "own"));
}

#[tokio::test]
async fn a_line_serves_through_a_drain_and_does_not_hold_it_up() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (first, by_line) = waiting(&fixture, &mut runner).await;
    let (second, by_broker) = waiting(&fixture, &mut runner).await;
    let mut line = open(&first).await.unwrap();
    let public = fixture.public;
    let since = Instant::now();
    fixture.shutdown.cancel();
    eventually(async || TcpStream::connect(public).await.is_err()).await;
    line.send(&[reply(&first, OK, "over the line")]).await;
    line.taken(1).await;
    assert_eq!(answer(by_line).await, words(200, "over the line"));
    runner.reply(&second, reply(&second, OK, "through the broker")).await;
    assert_eq!(answer(by_broker).await, words(200, "through the broker"));
    line.ended().await;
    soon(fixture.served).await.unwrap();
    assert!(since.elapsed() < Limits::default().drain_timeout, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_line_outlives_the_gateways_link_to_the_broker() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (first, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&first).await.unwrap();
    line.send(&[reply(&first, OK, "before")]).await;
    assert_eq!(answer(client).await, words(200, "before"));
    fixture.broker.leave();
    eventually(async || fixture.metric("funcatron_gateway_link_up").await == 0.0).await;
    fixture.broker.come_back();
    eventually(async || fixture.metric("funcatron_gateway_link_up").await == 1.0).await;
    let mut runner = fixture.runner("00000001").await;
    let (second, client) = waiting(&fixture, &mut runner).await;
    line.send(&[reply(&second, OK, "after")]).await;
    assert_eq!(answer(client).await, words(200, "after"));
}

/// What an HTTP/1.1 listener says to a request; its connection ends then.
async fn said(to: SocketAddr, request: &str) -> u16 {
    let answer = raw(to, request).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn what_is_no_request_for_a_line_is_told_so_and_costs_the_token_nothing() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (call, client) = waiting(&fixture, &mut runner).await;
    let Offer { token, .. } = streams::offer(&call);
    let path = format!("/line/{}", call.id);
    let rest = format!("host: g\r\nauthorization: Bearer {token}\r\nconnection: close");
    let to = fixture.internal;
    for (request, status) in [
        (format!("GET {path} HTTP/1.1\r\n{rest}\r\n\r\n"), 400),
        (format!("GET {path} HTTP/1.1\r\n{rest}, upgrade\r\nupgrade: websocket\r\n\r\n"), 400),
        (format!("GET {path} HTTP/1.0\r\n{rest}, upgrade\r\nupgrade: funcatron-line\r\n\r\n"), 400),
        (
            format!(
                "POST {path} HTTP/1.1\r\n{rest}, upgrade\r\nupgrade: funcatron-line\r\ncontent-length: 0\r\n\r\n"
            ),
            405,
        ),
    ] {
        assert_eq!(said(to, &request).await, status, "{request}");
    }
    let mut sender = h2(to).await;
    let request =
        Request::get(format!("http://{to}{path}")).header("authorization", format!("Bearer {token}"));
    let got =
        collected(soon(sender.send_request(request.body(Full::default()).unwrap())).await.unwrap()).await;
    assert_eq!((got.status, got.problem().as_str()), (400, "bad-request"));
    assert!(got.text().contains("upgrade to funcatron-line"), "{}", got.text());
    let method = send(to, Method::POST, "g", &path, &[], "").await;
    assert_eq!((method.status, &method.headers["allow"]), (405, &"GET".parse().unwrap()));
    let public = fixture.public.to_string();
    let id = call.id.to_string();
    assert_eq!(
        open_with(&public, &id, &token.to_string()).await.err(),
        Some(404),
        "it is the cluster's inside alone"
    );
    let mut line = open(&call).await.unwrap();
    line.send(&[reply(&call, OK, "done")]).await;
    assert_eq!(answer(client).await, words(200, "done"));
}

#[tokio::test]
async fn a_body_that_a_message_carries_badly_is_had_on_the_line_by_its_token_or_over_a_stream() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (opener, client) = waiting(&fixture, &mut runner).await;
    let mut line = open(&opener).await.unwrap();
    line.send(&[reply(&opener, OK, "")]).await;
    assert_eq!(answer(client).await.0, 200);
    let body = streams::bytes(900);
    let sending = send(fixture.public, Method::POST, HOST, "/page", &[], body.clone());
    let playing = async {
        let call = streams::taken(&mut runner).await;
        let offer = streams::offer(&call);
        assert!(call.body.is_empty() && offer.body && offer.line, "{offer:?}");
        assert_eq!(line.fetch(call.id, Token::fresh()).await, None, "whoever guesses gets nothing");
        assert_eq!(line.fetch(CallId::fresh(), offer.token).await, None);
        for _again in 0..2 {
            assert_eq!(line.fetch(call.id, offer.token).await.unwrap(), body);
        }
        line.send(&[reply(&call, OK, "done")]).await;
        line.taken(2).await;
        assert_eq!(line.fetch(call.id, offer.token).await, None, "the call is over");
    };
    let (answer, ()) = tokio::join!(sending, playing);
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
}
