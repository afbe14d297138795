//! Direct calls: bodies that stream between a client and a runner that a test plays.

use bytes::Bytes;
use funcatron_broker::message::{CallEvent, Happened, Outcome, RecordedBody};
use funcatron_gateway::Limits;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connections::raw;
use crate::detached::listen;
use crate::streams::*;
use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

#[tokio::test]
async fn a_large_body_goes_past_the_message_and_its_answer_past_the_reply() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let body = bytes(LARGE);
    let playing = async {
        let call = taken(&mut runner).await;
        assert!(call.body.is_empty() && offer(&call).body);
        let mut stream = open(&call).await;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(LARGE));
        stream.head(StatusCode::CREATED, headers).await;
        while let Some(piece) = next(&mut stream.body).await {
            stream.answer.write(piece).await;
        }
        let Played { answer, .. } = &mut stream;
        drop(std::mem::replace(answer, pieces().0));
        answer.gone().await;
        call
    };
    let sending = send(fixture.public, Method::POST, HOST, "/page", &[], body.clone());
    let (answer, call) = tokio::join!(sending, playing);
    assert_eq!((answer.status, answer.body == body), (201, true));
    assert_eq!(answer.headers[CONTENT_TYPE], "text/csv");
    assert_eq!(answer.headers[CONTENT_LENGTH], LARGE.to_string());
    assert_eq!(answer.headers["fn-call-id"], call.id.to_string());
    eventually(async || fixture.metric("funcatron_gateway_calls_in_flight").await == 0.0).await;
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
}

#[tokio::test]
async fn a_small_body_stays_in_the_message_unless_the_route_says_otherwise() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    for (path, size, in_message, offered) in [
        ("/page", 512, true, true),
        ("/page", 513, false, true),
        ("/always", 1, false, true),
        ("/always", 0, true, true),
        ("/kept", LARGE, true, false),
    ] {
        let body = bytes(size);
        let sending = send(fixture.public, Method::POST, HOST, path, &[], body.clone());
        let (answer, call) = tokio::join!(sending, runner.serve(OK, "done"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"), "{path} {size}");
        assert_eq!(call.body == body, in_message, "{path} {size}");
        let streams = call.direct.as_ref().map(|offer| offer.body);
        assert_eq!(streams, offered.then_some(!in_message), "{path} {size}");
    }
}

#[tokio::test]
async fn a_large_answer_to_a_small_request_takes_the_stream() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let call = taken(&mut runner).await;
        assert_eq!((&call.body[..], offer(&call).body), (&b"small"[..], false));
        let mut stream = open(&call).await;
        stream.ok().await;
        stream.answer.write(bytes(LARGE)).await;
        drop(std::mem::replace(&mut stream.answer, pieces().0));
        assert_eq!(next(&mut stream.body).await, None, "the body was in the message");
    };
    let (answer, ()) = tokio::join!(fixture.post("/page", "small"), playing);
    assert_eq!((answer.status, answer.body == bytes(LARGE)), (200, true));
    assert!(!answer.headers.contains_key(CONTENT_LENGTH));
}

#[tokio::test]
async fn the_gateways_half_ends_when_the_answer_has_been_read_and_never_before() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    for length in [None, Some(HeaderValue::from(6_u64))] {
        let mut client = Client::connect(fixture.public).await;
        let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
        let mut stream = open(&taken(&mut runner).await).await;
        let headers = HeaderMap::from_iter(length.map(|length| (CONTENT_LENGTH, length)));
        stream.head(StatusCode::OK, headers).await;
        let mut answer = soon(asking).await.unwrap().unwrap().into_body();
        stream.answer.write("one").await;
        assert_eq!(next(&mut answer).await.unwrap(), "one");
        assert!(futures::poll!(stream.body.frame()).is_pending(), "there is more to read");
        stream.answer.write("two").await;
        drop(std::mem::replace(&mut stream.answer, pieces().0));
        assert_eq!(next(&mut stream.body).await, None);
        assert!(stream.body.is_end_stream(), "it ends cleanly");
        assert_eq!(rest(answer).await.unwrap(), "two");
    }
}

#[tokio::test]
async fn a_client_that_opens_no_window_holds_nothing_for_long() {
    let fixture = with(Limits { stream_idle_timeout: BRIEF, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let (_client, asking) = h2_without_window(fixture.public, "/page").await;
    let mut stream = open(&taken(&mut runner).await).await;
    stream.ok().await;
    let answer = soon(asking).await.unwrap().unwrap();
    stream.answer.write("one").await;
    stream.answer.gone().await;
    eventually(async || fixture.metric("funcatron_gateway_calls_in_flight").await == 0.0).await;
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
    drop(answer);
}

#[tokio::test]
async fn a_body_that_is_taken_back_goes_to_no_earlier_attempt() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let (mut writer, body) = pieces();
    let asking = tokio::spawn(client.send(Method::PUT, "/page", body));
    let (call, delivery) = runner.take().await;
    let mut first = open(&call).await;
    runner.reply(&call, reply(&call, Outcome::RunnerLost, "")).await;
    delivery.ack().await.unwrap();
    let again = taken(&mut runner).await;
    assert_eq!(again.attempt, 2);
    writer.write("whole").await;
    assert!(!matches!(soon(first.body.frame()).await, Some(Ok(_))), "the earlier attempt gets nothing");
    let mut second = open(&again).await;
    assert_eq!(next(&mut second.body).await.unwrap(), "whole");
    second.ok().await;
    drop(std::mem::replace(&mut second.answer, pieces().0));
    assert_eq!(soon(asking).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn the_answer_may_come_before_the_body_has_ended_and_each_piece_as_it_is_written() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let (mut writer, body) = pieces();
    let asking = tokio::spawn(client.send(Method::POST, "/page", body));
    let mut stream = open(&taken(&mut runner).await).await;
    stream.ok().await;
    let mut answer = soon(asking).await.unwrap().unwrap().into_body();
    for word in ["one", "two", "three"] {
        writer.write(word).await;
        assert_eq!(next(&mut stream.body).await.unwrap(), word);
        stream.answer.write(word.to_uppercase()).await;
        assert_eq!(next(&mut answer).await.unwrap(), word.to_uppercase());
    }
    drop(writer);
    assert_eq!(next(&mut stream.body).await, None);
    stream.answer.write("end").await;
    drop(std::mem::replace(&mut stream.answer, pieces().0));
    assert_eq!(rest(answer).await.unwrap(), "end");
}

#[tokio::test]
async fn a_token_opens_one_stream_of_its_own_call_and_cannot_be_guessed() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(fixture.public).await;
        let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
        calls.push(taken(&mut runner).await);
        clients.push((client, asking));
    }
    let [first, second] = &calls[..] else { panic!() };
    let (at, right) = (offer(first).at, offer(first).token.to_string());
    for wrong in ["", "x", &guess(), &right[1..], &offer(second).token.to_string()] {
        assert_eq!(open_with(&at, first, wrong).await.err(), Some(403), "{wrong}");
    }
    let _stream = open(first).await;
    assert!(is_void(first).await, "a token is used once");
    assert_eq!(fixture.metric("funcatron_gateway_direct_refused_total").await, 6.0);
    assert_eq!(fixture.metric("funcatron_gateway_direct_opened_total").await, 1.0);
}

#[tokio::test]
async fn a_token_ends_with_its_call() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let (answer, call) = tokio::join!(fixture.get("/brief"), taken(&mut runner));
    assert_eq!(answer.status, 504);
    assert!(is_void(&call).await, "its deadline has passed");
    let (answer, call) = tokio::join!(fixture.get("/page"), runner.serve(OK, "done"));
    assert_eq!(answer.status, 200);
    assert!(is_void(&call).await, "it was answered");
    let mut client = Client::connect(fixture.public).await;
    let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
    let call = taken(&mut runner).await;
    drop(client);
    let _ = soon(asking).await;
    eventually(async || fixture.metric("funcatron_gateway_calls_pending").await == 0.0).await;
    assert!(is_void(&call).await, "its client has left");
}

#[tokio::test]
async fn streams_are_no_business_of_the_public_listener() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let _asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
    let call = taken(&mut runner).await;
    let token = offer(&call).token.to_string();
    let public = fixture.public.to_string();
    assert_eq!(open_with(&public, &call, &token).await.err(), Some(404));
    assert_ne!(offer(&call).at, public);
    let first = format!("POST /direct/{} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n", call.id);
    let answer =
        raw(fixture.internal, &format!("{first}connection: close\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let _stream = open(&call).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream_before_and_during_the_answer() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    for (method, begun) in
        [(Method::GET, false), (Method::GET, true), (Method::POST, false), (Method::POST, true)]
    {
        let mut client = Client::connect(fixture.public).await;
        let (mut writer, body) = if method == Method::GET { (pieces().0, empty()) } else { pieces() };
        let asking = tokio::spawn(client.send(method.clone(), "/page", body));
        let mut stream = open(&taken(&mut runner).await).await;
        if method == Method::POST {
            writer.write("half").await;
            assert_eq!(next(&mut stream.body).await.unwrap(), "half");
        }
        if begun {
            stream.ok().await;
            let _answer = soon(asking).await.unwrap().unwrap();
        }
        drop(client);
        stream.answer.gone().await;
        let ended = soon(stream.body.frame()).await;
        assert!(!matches!(ended, Some(Ok(_))), "nothing more comes: {method} {begun}");
        assert!(method == Method::GET || !stream.body.is_end_stream(), "half a body is no whole one");
    }
    eventually(async || fixture.metric("funcatron_gateway_calls_in_flight").await == 0.0).await;
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_whole_one_to_the_client() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    for (length, broken) in [(None, true), (Some(100_u64), true), (Some(100), false), (Some(3), false)] {
        let mut client = Client::connect(fixture.public).await;
        let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
        let mut stream = open(&taken(&mut runner).await).await;
        let headers = length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length)));
        stream.head(StatusCode::OK, HeaderMap::from_iter(headers)).await;
        let answer = soon(asking).await.unwrap().unwrap();
        stream.answer.write("half").await;
        let writer = std::mem::replace(&mut stream.answer, pieces().0);
        match broken {
            true => writer.break_off().await,
            false => drop(writer),
        }
        let read = rest(answer.into_body()).await;
        assert!(read.is_err(), "{length:?} {broken} {read:?}");
    }
}

#[tokio::test]
async fn a_call_runs_again_while_no_byte_of_its_body_was_taken() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let (call, delivery) = runner.take().await;
        runner.reply(&call, reply(&call, Outcome::RunnerLost, "")).await;
        delivery.ack().await.unwrap();
        let again = taken(&mut runner).await;
        assert_eq!((call.attempt, again.attempt, offer(&again).body), (1, 2, true));
        assert!(offer(&call).token != offer(&again).token && is_void(&call).await);
        let mut stream = open(&again).await;
        stream.ok().await;
        while let Some(piece) = next(&mut stream.body).await {
            stream.answer.write(piece).await;
        }
        drop(std::mem::replace(&mut stream.answer, pieces().0));
        stream.answer.gone().await;
    };
    let sending = send(fixture.public, Method::PUT, HOST, "/page", &[], bytes(LARGE));
    let (answer, ()) = tokio::join!(sending, playing);
    assert_eq!((answer.status, answer.body == bytes(LARGE)), (200, true));
}

#[tokio::test]
async fn a_call_whose_body_was_begun_never_runs_again() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let (call, delivery) = runner.take().await;
        let mut stream = open(&call).await;
        next(&mut stream.body).await.unwrap();
        runner.reply(&call, reply(&call, Outcome::RunnerLost, "")).await;
        delivery.ack().await.unwrap();
        stream.answer.gone().await;
    };
    let sending = send(fixture.public, Method::PUT, HOST, "/page", &[], bytes(LARGE));
    let (answer, ()) = tokio::join!(sending, playing);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "runner-lost"));
    assert!(runner.calls.try_next().is_none());
}

#[tokio::test]
async fn other_outcomes_come_as_replies_also_once_the_stream_is_open() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let (call, delivery) = runner.take().await;
        let stream = open(&call).await;
        drop(stream);
        runner.reply(&call, reply(&call, Outcome::Failed, "for a reason")).await;
        delivery.ack().await.unwrap();
    };
    let sending = send(fixture.public, Method::PUT, HOST, "/page", &[], bytes(LARGE));
    let (answer, ()) = tokio::join!(sending, playing);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "function-failed"));
}

#[tokio::test]
async fn a_deadline_that_passes_breaks_the_body_off() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let (mut writer, body) = pieces();
    let asking = tokio::spawn(client.send(Method::POST, "/brief", body));
    let mut stream = open(&taken(&mut runner).await).await;
    writer.write("half").await;
    assert_eq!(next(&mut stream.body).await.unwrap(), "half");
    assert_eq!(soon(asking).await.unwrap().unwrap().status(), 504);
    assert!(soon(stream.body.frame()).await.is_some_and(|frame| frame.is_err()));
}

#[tokio::test]
async fn a_body_longer_than_the_limit_is_413_by_its_length_or_while_it_streams() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let declared = send(fixture.public, Method::POST, HOST, "/page", &[], bytes(LIMIT + 1)).await;
    assert_eq!((declared.status, declared.problem().as_str()), (413, "body-too-large"));
    assert!(runner.calls.try_next().is_none());
    let mut client = Client::connect(fixture.public).await;
    let (mut writer, body) = pieces();
    let asking = tokio::spawn(client.send(Method::POST, "/page", body));
    let mut stream = open(&taken(&mut runner).await).await;
    let writing = tokio::spawn(async move {
        writer.write(bytes(LIMIT)).await;
        writer.write("x").await;
        writer
    });
    let mut got = 0;
    let broken = loop {
        match soon(stream.body.frame()).await {
            Some(Ok(frame)) => got += frame.into_data().unwrap().len(),
            other => break other,
        }
    };
    assert!(matches!(broken, Some(Err(_))) && got <= LIMIT, "{got} {broken:?}");
    assert_eq!(collected(soon(asking).await.unwrap().unwrap()).await.problem(), "body-too-large");
    writing.abort();
}

#[tokio::test]
async fn what_nobody_takes_waits_with_its_sender() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut stream = TcpStream::connect(fixture.public).await.unwrap();
    let head = "GET /page HTTP/1.1\r\nhost: shop.example.com\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut played = open(&taken(&mut runner).await).await;
    played.ok().await;
    let mut written = 0;
    let piece = bytes(1 << 20);
    // The client reads nothing: buffers of both connections fill, and then no more is taken.
    while written < 64 {
        let writing = tokio::time::timeout(BRIEF, played.answer.write(piece.clone())).await;
        if writing.is_err() {
            break;
        }
        written += 1;
    }
    assert!(written < 32, "{written} MiB were taken for a client that reads nothing");
    let mut some = vec![0; 1 << 20];
    soon(stream.read_exact(&mut some)).await.unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_stream_on_which_nothing_moves_is_broken_off() {
    let fixture = with(Limits { stream_idle_timeout: BRIEF, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
    let mut stream = open(&taken(&mut runner).await).await;
    stream.ok().await;
    let mut answer = soon(asking).await.unwrap().unwrap().into_body();
    stream.answer.write("one").await;
    assert_eq!(next(&mut answer).await.unwrap(), "one");
    assert!(rest(answer).await.is_err());
    stream.answer.gone().await;
}

#[tokio::test]
async fn streams_at_once_are_bounded() {
    let fixture = with(Limits { streams_max: 1, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(fixture.public).await;
        let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
        calls.push(taken(&mut runner).await);
        clients.push((client, asking));
    }
    let first = open(&calls[0]).await;
    let (at, token) = (offer(&calls[1]).at, offer(&calls[1]).token.to_string());
    assert_eq!(open_with(&at, &calls[1], &token).await.err(), Some(503));
    drop(first);
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
    assert!(open_with(&at, &calls[1], &token).await.is_ok(), "a token that was not looked at is still good");
}

#[tokio::test]
async fn streams_of_one_app_are_bounded_and_leave_room_for_others() {
    let fixture = with(Limits { app_streams_max: 1, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(fixture.public).await;
        let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
        calls.push(taken(&mut runner).await);
        clients.push((client, asking));
    }
    let first = open(&calls[0]).await;
    let (at, token) = (offer(&calls[1]).at, offer(&calls[1]).token.to_string());
    assert_eq!(open_with(&at, &calls[1], &token).await.err(), Some(503));
    drop(first);
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
    assert!(open_with(&at, &calls[1], &token).await.is_ok(), "a token that was not taken is still good");
}

#[tokio::test]
async fn bodies_that_went_over_a_stream_are_recorded_as_not_kept() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut ledger = listen(&fixture, &installation().ledger_queue()).await;
    let mut table = app("00000001");
    (table.bounds.body_bytes_max, table.bounds.records_all) = (LIMIT as u64, true);
    fixture.tables.put_app("team-a", "shop", Some(table)).unwrap();
    let playing = async {
        let mut stream = open(&taken(&mut runner).await).await;
        while next(&mut stream.body).await.is_some() {}
        stream.ok().await;
        stream.answer.write("done").await;
        drop(std::mem::replace(&mut stream.answer, pieces().0));
        stream.answer.gone().await;
    };
    let sending = send(fixture.public, Method::POST, HOST, "/page", &[], bytes(LARGE));
    let (answer, ()) = tokio::join!(sending, playing);
    assert_eq!(answer.status, 200);
    let queued = CallEvent::from_envelope(&ledger.next().await.0).unwrap();
    let ended = CallEvent::from_envelope(&ledger.next().await.0).unwrap();
    let Happened::Queued { request: Some(request), .. } = queued.happened else { panic!("{queued:?}") };
    let Happened::Ended { answer: Some(answer), .. } = ended.happened else { panic!("{ended:?}") };
    assert_eq!(request.body, RecordedBody::unkept(Some(LARGE as u64)));
    assert_eq!(answer.body, RecordedBody { truncated: true, ..RecordedBody::default() });
}

#[tokio::test]
async fn a_drain_waits_for_the_stream_of_a_call_that_was_accepted() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Client::connect(fixture.public).await;
    let asking = tokio::spawn(client.send(Method::GET, "/page", empty()));
    let call = taken(&mut runner).await;
    fixture.shutdown.cancel();
    let public = fixture.public;
    eventually(async || TcpStream::connect(public).await.is_err()).await;
    let mut stream = open(&call).await;
    stream.ok().await;
    stream.answer.write("late").await;
    drop(std::mem::replace(&mut stream.answer, pieces().0));
    let answer = soon(asking).await.unwrap().unwrap();
    assert_eq!(rest(answer.into_body()).await.unwrap(), Bytes::from_static(b"late"));
    drop((client, stream));
    soon(fixture.served).await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_none_is_502() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let mut stream = open(&taken(&mut runner).await).await;
        stream.answer.write(&[0, 0, 0, 2, 0, 7][..]).await;
        stream.answer.gone().await;
    };
    let (answer, ()) = tokio::join!(fixture.get("/page"), playing);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "function-failed"));
}

#[tokio::test]
async fn an_answer_to_head_and_one_without_a_body_send_none() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    for (method, status, length) in [(Method::HEAD, 200, Some("9")), (Method::GET, 204, None)] {
        let playing = async {
            let mut stream = open(&taken(&mut runner).await).await;
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("9"))]);
            stream.head(StatusCode::from_u16(status).unwrap(), headers).await;
            stream.answer.gone().await;
        };
        let sending = send(fixture.public, method.clone(), HOST, "/page", &[], "");
        let (answer, ()) = tokio::join!(sending, playing);
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        let said = answer.headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap());
        assert_eq!(said, length, "{method}");
    }
}
