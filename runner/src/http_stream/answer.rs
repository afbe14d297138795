//! What a function's answer means. Pure.

use bytes::Bytes;
use http::header::DATE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::request::{HTTP_PREFIX, is_hop_by_hop};

const HTTP_STATUS: HeaderName = HeaderName::from_static("fn-http-status");

/// What a function's answer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<B = Bytes> {
    /// It ran; this goes to whoever asked.
    Answered {
        /// The function's own status, 200 where it names none.
        status: StatusCode,
        /// Its headers, unwrapped.
        headers: HeaderMap,
        /// Its body, untouched.
        body: B,
    },
    /// The function's library says that it failed; the process is well.
    Failed,
    /// The function's library says that it ran out of time; the process is well.
    TimedOut,
    /// Not a word of the contract: the process is not to be trusted further.
    Nonsense(&'static str),
}

impl Answer<()> {
    /// The same, of an answer whose body plays no part.
    pub(crate) fn without_body(self) -> Answer {
        match self {
            Self::Answered { status, headers, body: () } => {
                Answer::Answered { status, headers, body: Bytes::new() }
            }
            Self::Failed => Answer::Failed,
            Self::TimedOut => Answer::TimedOut,
            Self::Nonsense(why) => Answer::Nonsense(why),
        }
    }
}

/// Reads an answer as Fn's http-stream contract has it.
pub(super) fn read<B>(answer: Response<B>) -> Answer<B> {
    let (head, body) = answer.into_parts();
    match head.status {
        StatusCode::OK => match status(&head.headers) {
            Some(status) => Answer::Answered { status, headers: unwrap(head.headers), body },
            None => Answer::Nonsense("Fn-Http-Status is no status from 200 to 599"),
        },
        StatusCode::BAD_GATEWAY => Answer::Failed,
        StatusCode::GATEWAY_TIMEOUT => Answer::TimedOut,
        _ => Answer::Nonsense("the status is none of 200, 502 and 504"),
    }
}

fn status(headers: &HeaderMap) -> Option<StatusCode> {
    let Some(value) = headers.get(HTTP_STATUS) else { return Some(StatusCode::OK) };
    let code: u16 = value.to_str().ok()?.trim().parse().ok()?;
    StatusCode::from_u16(code).ok().filter(|_| (200..=599).contains(&code))
}

/// The answer's own headers: those with the prefix lose it and win over those without, and what speaks of the
/// connection or to the platform stays here. (Each HTTP server dates its own answers.)
fn unwrap(headers: HeaderMap) -> HeaderMap {
    let mut wrapped = HeaderMap::new();
    let mut plain = HeaderMap::with_capacity(headers.len());
    let mut last: Option<HeaderName> = None;
    for (name, value) in headers {
        last = name.or(last);
        let Some(name) = &last else { continue };
        match name.as_str().strip_prefix(HTTP_PREFIX) {
            Some(own) => append(&mut wrapped, HeaderName::try_from(own).ok(), value),
            None if name.as_str().starts_with("fn-") => {}
            None => append(&mut plain, Some(name.clone()), value),
        }
    }
    for name in wrapped.keys() {
        plain.remove(name);
    }
    plain.extend(wrapped);
    plain
}

fn append(headers: &mut HeaderMap, name: Option<HeaderName>, value: HeaderValue) {
    if let Some(name) = name.filter(|name| !is_hop_by_hop(name) && *name != DATE) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        read(builder.body(Bytes::from_static(b"body")).unwrap())
    }

    fn headers(answer: Answer) -> Vec<(String, String)> {
        let Answer::Answered { headers, .. } = answer else { panic!("{answer:?}") };
        let pairs = headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        pairs
    }

    #[test]
    fn a_functions_own_status_counts() {
        let status = |status, headers: &[_]| match answer(status, headers) {
            Answer::Answered { status, .. } => status.as_u16(),
            other => panic!("{other:?}"),
        };
        assert_eq!(status(200, &[]), 200);
        assert_eq!(status(200, &[("fn-http-status", "404")]), 404);
    }

    #[test]
    fn only_three_statuses_are_words_of_the_contract() {
        assert_eq!(answer(502, &[]), Answer::Failed);
        assert_eq!(answer(504, &[]), Answer::TimedOut);
        for status in [201, 204, 301, 400, 404, 500, 503] {
            assert!(matches!(answer(status, &[]), Answer::Nonsense(_)), "{status}");
        }
    }

    #[test]
    fn a_status_that_is_none_is_nonsense() {
        for text in ["", "abc", "99", "100", "600", "2000", "-1", "20 0"] {
            assert!(matches!(answer(200, &[("fn-http-status", text)]), Answer::Nonsense(_)), "{text}");
        }
    }

    #[test]
    fn prefixed_headers_lose_their_prefix_and_win() {
        let answer = answer(
            200,
            &[
                ("content-type", "text/plain"),
                ("fn-http-h-content-type", "text/html"),
                ("fn-http-h-set-cookie", "a=1"),
                ("fn-http-h-set-cookie", "b=2"),
                ("x-own", "1"),
            ],
        );
        let expected =
            [("content-type", "text/html"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-own", "1")];
        assert_eq!(headers(answer), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn what_speaks_of_the_connection_or_to_the_platform_stays_here() {
        let answer = answer(
            200,
            &[
                ("connection", "keep-alive"),
                ("content-length", "4"),
                ("transfer-encoding", "chunked"),
                ("fn-http-h-transfer-encoding", "chunked"),
                ("fn-http-h-content-length", "99"),
                ("fn-fdk-version", "1"),
                ("fn-http-status", "201"),
                ("date", "now"),
                ("fn-http-h-", "no name"),
            ],
        );
        assert_eq!(headers(answer), []);
    }
}
