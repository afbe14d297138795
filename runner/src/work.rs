//! What a delivery asks for, and who waits for what became of it. Reads nothing from the wire and runs nothing.

use funcatron_broker::link::Envelope;
use funcatron_broker::message::{Call, CallId, Offer, SpilledBody};

use crate::line::Line;
use crate::producer::Producer;
use crate::slots::Lane;

/// What is to run.
#[derive(Debug)]
pub(crate) enum Work {
    Call(Box<Call>),
    Event(Box<Envelope>),
}

impl Work {
    /// What is said of a body that is in the object store.
    pub(crate) fn take_spilled(&mut self) -> Option<SpilledBody> {
        match self {
            Self::Call(call) => call.spilled.take(),
            Self::Event(_) => None,
        }
    }

    /// The stream that its gateway offers; where nobody waits, nobody offers one.
    pub(crate) fn take_offer(&mut self, lane: Lane) -> Option<(CallId, Offer)> {
        match self {
            Self::Call(call) if call.spilled.is_none() && lane == Lane::Sync => {
                Some(call.id).zip(call.direct.take())
            }
            Self::Call(_) | Self::Event(_) => None,
        }
    }

    pub(crate) fn asker(&self) -> Option<Asker> {
        match self {
            Self::Call(call) => Asker::of(call),
            Self::Event(_) => None,
        }
    }

    pub(crate) fn producer(&self) -> Option<Producer> {
        match self {
            Self::Call(_) => None,
            Self::Event(event) => Producer::of(event),
        }
    }
}

/// Who waits for what became of a call.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) id: CallId,
    pub(crate) attempt: u32,
    pub(crate) reply_to: String,
    /// The line on which the reply goes, where there is one.
    pub(crate) line: Option<Line>,
}

impl Asker {
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let reply_to = call.reply_to.clone()?;
        Some(Self { id: call.id, attempt: call.attempt, reply_to, line: None })
    }
}
