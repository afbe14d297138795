//! Calls and how each ended, as its client saw it. Pure.

use std::time::Duration;

use http::StatusCode;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// May run more than once.
    Get,
    /// Must not run twice.
    Post,
    /// A POST that nobody waits for.
    Detached,
}

/// How an answer, or the lack of one, is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Flaw {
    /// 503 or 429: not taken.
    Refused,
    /// 502 or 504: it may have run.
    Unknown,
    /// The connection broke under it.
    Broken,
    /// No answer within the client's patience.
    Silent,
    /// Any other status, or another call's body.
    Wrong,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The function's own answer to this very call.
    Good,
    /// 202: the call's id.
    Accepted(String),
    /// With what was seen, for people.
    Flawed(Flaw, String),
}

/// A call that has ended for its client. Times count from the start of the round.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) sent: Duration,
    pub(crate) done: Duration,
    /// Connections that were tried.
    pub(crate) tries: u32,
    pub(crate) end: End,
}

/// Reads an answer; the function answers with the call's number.
pub(crate) fn judge(kind: Kind, number: u64, status: StatusCode, call_id: Option<&str>, body: &str) -> End {
    let seen = || format!("{status} {}", body.chars().take(300).collect::<String>());
    match (status.as_u16(), kind, call_id) {
        (200, Kind::Get | Kind::Post, _) if body == number.to_string() => End::Good,
        (202, Kind::Detached, Some(id)) => End::Accepted(id.to_owned()),
        (429 | 503, _, _) => End::Flawed(Flaw::Refused, seen()),
        (502 | 504, _, _) => End::Flawed(Flaw::Unknown, seen()),
        _ => End::Flawed(Flaw::Wrong, seen()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(kind: Kind, status: u16, id: Option<&str>, body: &str) -> Option<Flaw> {
        match judge(kind, 7, StatusCode::from_u16(status).unwrap(), id, body) {
            End::Flawed(flaw, _) => Some(flaw),
            End::Good | End::Accepted(_) => None,
        }
    }

    #[test]
    fn only_its_own_answer_is_good() {
        assert_eq!(judge(Kind::Get, 7, StatusCode::OK, None, "7"), End::Good);
        assert_eq!(flaw(Kind::Get, 200, None, "8"), Some(Flaw::Wrong));
        assert_eq!(flaw(Kind::Post, 202, Some("id"), "7"), Some(Flaw::Wrong));
        assert_eq!(flaw(Kind::Detached, 200, Some("id"), "7"), Some(Flaw::Wrong));
    }

    #[test]
    fn accepted_needs_an_id_to_be_asked_about() {
        assert_eq!(
            judge(Kind::Detached, 7, StatusCode::ACCEPTED, Some("id"), ""),
            End::Accepted("id".to_owned())
        );
        assert_eq!(flaw(Kind::Detached, 202, None, ""), Some(Flaw::Wrong));
    }

    #[test]
    fn refusals_and_unknown_ends_are_told_apart() {
        for (status, expected) in [
            (503, Flaw::Refused),
            (429, Flaw::Refused),
            (502, Flaw::Unknown),
            (504, Flaw::Unknown),
            (500, Flaw::Wrong),
            (404, Flaw::Wrong),
        ] {
            assert_eq!(flaw(Kind::Get, status, None, "why"), Some(expected), "{status}");
        }
    }
}
