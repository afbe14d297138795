//! Instructions that the codec takes: a call and its reply, into an envelope and back, and replies that travel together.
//! Counted by `cargo xtask counts`, which compares them with the commit that a change stands on.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "what gungraun's macros write is public"
)]

use std::hint::black_box;

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::message::{Call, CallId, Intent, Offer, Outcome, Packed, Reply, Token, pack};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Messages that are counted together: a few hundred thousand instructions, beside which what surrounds them is nothing.
const MESSAGES: u64 = 100;
/// Replies that travel in one message under load.
const TOGETHER: u64 = 16;
const USER: &str = "inst.team-a.shop";

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    lines.iter().map(pair).collect()
}

fn id(number: u64) -> CallId {
    CallId::from_uuid(uuid::Uuid::from_u64_pair(0x0189_0a5d_ac96_774b, 0xbcce_b302_0000_0000 | number))
}

/// A request as a browser sends it through an ingress.
fn call(number: u64) -> Call {
    let headers = headers(&[
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "application/json"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
    ]);
    Call {
        id: id(number),
        reply_to: Some("inst.gw.0123456789abcdef".to_owned()),
        deadline_ms: 1_790_000_030_000,
        timeout_ms: 30_000,
        expiration_ms: Some(30_000),
        timestamp_s: Some(1_790_000_000),
        persistent: false,
        attempt: 1,
        attempts_max: None,
        claimant: None,
        intent: Intent::HttpRequest,
        method: Method::POST,
        url: format!("https://shop.example.com/v1/orders/{number}?dry-run=true"),
        app: "shop".to_owned(),
        fn_name: "orders".to_owned(),
        revision: "orders-1a2b3c4d".to_owned(),
        operation: Some("putOrder".to_owned()),
        template: Some("/orders/{id}".to_owned()),
        params: vec![("id".to_owned(), number.to_string())],
        headers,
        spilled: None,
        direct: Some(Offer {
            at: "10.244.0.7:8081".to_owned(),
            token: Token::parse("AAECAwQFBgcICQoLDA0ODw").expect("sixteen bytes"),
            body: false,
            line: false,
            upgrade: None,
        }),
        body: Bytes::from_static(&[b'x'; 100]),
    }
}

fn reply(number: u64) -> Reply {
    let headers =
        headers(&[("content-type", "application/json"), ("cache-control", "no-store"), ("etag", "\"7\"")]);
    Reply {
        id: id(number),
        user_id: Some(USER.to_owned()),
        attempt: 1,
        outcome: Outcome::Answer(StatusCode::OK),
        headers,
        body: Bytes::from_static(&[b'y'; 100]),
    }
}

fn calls() -> Vec<Call> {
    (0..MESSAGES).map(call).collect()
}

fn replies() -> Vec<Reply> {
    (0..MESSAGES).map(reply).collect()
}

/// As a link hands them over: whatever reads them owns them.
fn call_envelopes() -> Vec<Envelope> {
    calls().iter().map(|call| call.to_envelope().expect("it is small")).collect()
}

fn reply_envelopes() -> Vec<Envelope> {
    replies().into_iter().map(|reply| reply.into_envelope().expect("it is small")).collect()
}

fn batches() -> Vec<Vec<Reply>> {
    (0..MESSAGES).map(|at| (0..TOGETHER).map(|next| reply(at * TOGETHER + next)).collect()).collect()
}

fn packed() -> Vec<Envelope> {
    let packed = batches().into_iter().map(|replies| pack(USER, replies));
    packed.flat_map(|Packed { alone: _, together }| together).collect()
}

#[library_benchmark(setup = calls)]
fn call_to_envelope(calls: Vec<Call>) -> Vec<Call> {
    for call in &calls {
        let _ = black_box(call.to_envelope());
    }
    calls
}

#[library_benchmark(setup = call_envelopes)]
fn call_from_envelope(envelopes: Vec<Envelope>) {
    for envelope in envelopes {
        let _ = black_box(Call::from_envelope(envelope));
    }
}

#[library_benchmark(setup = replies)]
fn reply_into_envelope(replies: Vec<Reply>) {
    for reply in replies {
        let _ = black_box(reply.into_envelope());
    }
}

#[library_benchmark(setup = reply_envelopes)]
fn reply_from_envelope(envelopes: Vec<Envelope>) {
    for envelope in envelopes {
        black_box(Reply::read_all(envelope));
    }
}

#[library_benchmark(setup = batches)]
fn pack_replies(batches: Vec<Vec<Reply>>) {
    for replies in batches {
        black_box(pack(USER, replies));
    }
}

#[library_benchmark(setup = packed)]
fn read_packed_replies(envelopes: Vec<Envelope>) {
    for envelope in envelopes {
        black_box(Reply::read_all(envelope));
    }
}

library_benchmark_group!(
    name = codec,
    benchmarks = [
        call_to_envelope,
        call_from_envelope,
        reply_into_envelope,
        reply_from_envelope,
        pack_replies,
        read_packed_replies
    ]
);
main!(library_benchmark_groups = codec);
