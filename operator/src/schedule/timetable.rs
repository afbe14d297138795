//! A schedule's spec, read once into a type that cannot be wrong: which moments it names, and when each is due.

use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use funcatron_crds::{ConcurrencyPolicy, JITTER_MAX, ScheduleTrigger, Span};
use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::call::spread;

/// Of a schedule that names none.
const TIME_ZONE_DEFAULT: &str = "UTC";
/// CronJob's words for common times.
const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
const FIELDS: usize = 5;
/// Where the search for an expression that names no moment begins; the calendar repeats.
const ANY_DAY: DateTime = date(2000, 1, 1).at(0, 0, 0, 0);
/// As the CRD has it: a new leader takes longer than less.
const STARTING_DEADLINE_MIN: Duration = Duration::from_secs(10);

/// Why a schedule cannot be honoured; the same words on a cluster and in `dev`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    /// It cannot be read.
    #[error(
        "`{text}` is no cron expression: {reason}; write minute, hour, day of month, month and day of week, as in \
         `0 3 * * *`, or @hourly, @daily, @weekly, @monthly or @yearly"
    )]
    Cron {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It can be read, and no day is like that.
    #[error("`{0}` never comes; name a day that the month has")]
    Never(String),
    /// There is no such zone.
    #[error("`{0}` is no time zone; name one of the IANA database, such as Europe/Berlin or UTC")]
    TimeZone(String),
    /// No length of time, or beyond its bounds.
    #[error("{0} is 0s to 1h; write it like 30s or 5m")]
    Jitter(String),
    /// No length of time, or below what can be kept.
    #[error("{0} is at least 10s; write it like 10m or 1h30m")]
    StartingDeadline(String),
}

impl TimetableError {
    /// The field below `spec.schedule` that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Cron { .. } | Self::Never(_) => "cron",
            Self::TimeZone(_) => "timeZone",
            Self::Jitter(_) => "jitter",
            Self::StartingDeadline(_) => "startingDeadline",
        }
    }
}

/// A schedule that can be kept.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    jitter: Duration,
    pub(super) starting_deadline: Option<SignedDuration>,
    pub(super) forbids_overlap: bool,
    pub(super) suspended: bool,
    seed: String,
}

impl Timetable {
    /// Reads a spec. `seed` is the Trigger's own (its uid): ids and jitter follow from it.
    ///
    /// # Errors
    /// A field that cannot be honoured.
    pub fn new(spec: &ScheduleTrigger, suspended: bool, seed: &str) -> Result<Self, TimetableError> {
        let ScheduleTrigger { cron, time_zone, jitter, starting_deadline, concurrency_policy } = spec;
        let zone = time_zone.as_deref().unwrap_or(TIME_ZONE_DEFAULT);
        Ok(Self {
            cron: read_cron(cron)?,
            zone: TimeZone::get(zone).map_err(|_| TimetableError::TimeZone(zone.to_owned()))?,
            jitter: jitter.as_ref().map_or(Ok(Duration::ZERO), read_jitter)?,
            starting_deadline: starting_deadline.as_ref().map(read_starting_deadline).transpose()?,
            forbids_overlap: concurrency_policy.unwrap_or_default() == ConcurrencyPolicy::Forbid,
            suspended,
            seed: seed.to_owned(),
        })
    }

    /// What ids and jitter follow from.
    pub fn seed(&self) -> &str {
        &self.seed
    }

    /// The first tick after a moment.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let time = time.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&time, false).ok().map(|tick| tick.timestamp())
    }

    /// When a tick is due: its jitter, of its own and always the same, on top.
    pub fn due(&self, tick: Timestamp) -> Timestamp {
        let jitter_ms = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        let late_ms = spread(&self.seed, tick) % jitter_ms.saturating_add(1);
        let late = SignedDuration::from_millis(i64::try_from(late_ms).unwrap_or(0));
        tick.checked_add(late).unwrap_or(tick)
    }

    /// The latest tick that is due. Looks back over no more ticks than a jitter spans.
    pub(super) fn latest_due(&self, now: Timestamp) -> Option<Timestamp> {
        let mut tick = self.latest(now)?;
        while self.due(tick) > now {
            tick = self.latest(tick.checked_sub(SignedDuration::from_secs(1)).ok()?)?;
        }
        Some(tick)
    }

    /// The latest tick that has come.
    fn latest(&self, time: Timestamp) -> Option<Timestamp> {
        let time = time.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&time, true).ok().map(|tick| tick.timestamp())
    }
}

fn read_cron(text: &str) -> Result<Cron, TimetableError> {
    let refused = |reason: String| TimetableError::Cron { text: text.to_owned(), reason };
    let named = MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    let fields = named.map_or(text, |(_, fields)| fields);
    let count = fields.split_whitespace().count();
    if fields.trim_start().starts_with('@') {
        return Err(refused("there is no such word".to_owned()));
    }
    if count != FIELDS {
        return Err(refused(format!("it has {count} fields and not {FIELDS}")));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(fields).map_err(|error| refused(reason(error)))?;
    match cron.find_next_occurrence(&ANY_DAY, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(TimetableError::Never(text.to_owned())),
    }
}

/// The library's words, without its own names before them.
fn reason(error: CronError) -> String {
    let words = match error {
        CronError::InvalidPattern(words)
        | CronError::IllegalCharacters(words)
        | CronError::ComponentError(words) => words,
        other => other.to_string(),
    };
    words.trim_start_matches("CronPattern contains ").trim_end_matches('.').to_owned()
}

fn read_jitter(span: &Span) -> Result<Duration, TimetableError> {
    let length = span.to_duration().map_err(|error| TimetableError::Jitter(error.to_string()))?;
    if length > JITTER_MAX {
        return Err(TimetableError::Jitter("a jitter".to_owned()));
    }
    Ok(length)
}

fn read_starting_deadline(span: &Span) -> Result<SignedDuration, TimetableError> {
    let length = span.to_duration().map_err(|error| TimetableError::StartingDeadline(error.to_string()))?;
    match SignedDuration::try_from(length) {
        Ok(deadline) if length >= STARTING_DEADLINE_MIN => Ok(deadline),
        _ => Err(TimetableError::StartingDeadline("a startingDeadline".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cron: &str, zone: &str) -> Result<Timetable, TimetableError> {
        let spec =
            ScheduleTrigger { cron: cron.into(), time_zone: Some(zone.into()), ..ScheduleTrigger::default() };
        Timetable::new(&spec, false, "uid")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The ticks within a day of UTC.
    fn ticks(cron: &str, zone: &str, day: &str) -> Vec<String> {
        let table = of(cron, zone).unwrap();
        let (mut time, end) =
            (at(&format!("{day}T00:00:00Z")) - SignedDuration::from_secs(1), at(&format!("{day}T23:59:59Z")));
        let mut ticks = vec![];
        while let Some(tick) = table.next_after(time).filter(|tick| *tick <= end) {
            assert_eq!(table.latest(tick), Some(tick), "what comes is found again");
            ticks.push(tick.to_string().replace(&format!("{day}T"), "").replace(":00Z", ""));
            time = tick;
        }
        ticks
    }

    #[test]
    fn a_time_in_the_gap_of_spring_comes_once_at_its_end() {
        assert_eq!(ticks("30 2 * * *", "Europe/Berlin", "2026-03-29"), ["01:00"]);
        assert_eq!(ticks("30 2 * * *", "America/New_York", "2026-03-08"), ["07:00"]);
    }

    #[test]
    fn a_time_in_the_overlap_of_autumn_comes_once_at_its_first_hour() {
        assert_eq!(ticks("30 2 * * *", "Europe/Berlin", "2026-10-25"), ["00:30"]);
        assert_eq!(ticks("30 1 * * *", "America/New_York", "2026-11-01"), ["05:30"]);
    }

    #[test]
    fn what_comes_each_hour_comes_each_hour_of_either_day() {
        assert_eq!(ticks("0 * * * *", "Europe/Berlin", "2026-03-29").len(), 24);
        assert_eq!(ticks("0 * * * *", "Europe/Berlin", "2026-10-25").len(), 24);
    }

    #[test]
    fn time_zones_are_in_the_binary() {
        assert!(jiff_has_its_own("Europe/Berlin"));
        assert_eq!(ticks("0 3 * * *", "Europe/Berlin", "2026-11-22"), ["02:00"]);
    }

    /// Without the machine's own.
    fn jiff_has_its_own(name: &str) -> bool {
        jiff::tz::TimeZoneDatabase::bundled().get(name).is_ok()
    }

    #[test]
    fn common_words_are_understood_in_any_case() {
        for (word, _) in MACROS {
            assert!(of(word, "UTC").is_ok() && of(&word.to_uppercase(), "UTC").is_ok(), "{word}");
        }
        assert_eq!(ticks("@midnight", "UTC", "2026-11-22"), ["00:00"]);
        assert_eq!(ticks("0 9 * * mon-fri", "UTC", "2026-11-23"), ["09:00"]);
        assert_eq!(ticks("0 9 * * MON#1", "UTC", "2026-12-07"), ["09:00"]);
        assert_eq!(ticks("0 9 * * MON#1", "UTC", "2026-12-14"), Vec::<String>::new());
        assert_eq!(ticks("0 9 L * *", "UTC", "2026-11-30"), ["09:00"]);
        assert_eq!(ticks("0 9 * JAN 7", "UTC", "2027-01-03"), ["09:00"]);
    }

    #[test]
    fn a_bad_expression_is_named_with_what_is_wrong_and_the_fix() {
        for (cron, words) in [
            ("61 * * * *", "out of bounds"),
            ("* * * *", "4 fields"),
            ("* * * * * *", "6 fields"),
            ("@every 5m", "no such word"),
            ("TZ=Europe/Berlin 0 3 * * *", "6 fields"),
            ("0 3 * * foo", "illegal character 'F'"),
            ("0/5 * * * *", "*/5"),
            ("", "0 fields"),
        ] {
            let error = of(cron, "UTC").unwrap_err();
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("`0 3 * * *`"), "{cron}: {text}");
            assert_eq!(error.field(), "cron");
        }
        assert_eq!(of("0 0 30 2 *", "UTC").unwrap_err(), TimetableError::Never("0 0 30 2 *".into()));
        assert!(of("0 0 29 2 *", "UTC").is_ok());
    }

    #[test]
    fn a_bad_time_zone_is_named() {
        for zone in ["Europe/Berln", "Local", "", "../etc/passwd"] {
            let error = of("@daily", zone).unwrap_err();
            assert_eq!((error.field(), error.clone()), ("timeZone", TimetableError::TimeZone(zone.into())));
        }
    }

    #[test]
    fn lengths_beyond_their_bounds_are_named() {
        let refused = |jitter: Option<&str>, deadline: Option<&str>| {
            let spec = ScheduleTrigger {
                cron: "@daily".into(),
                jitter: jitter.map(Span::new),
                starting_deadline: deadline.map(Span::new),
                ..ScheduleTrigger::default()
            };
            Timetable::new(&spec, false, "uid").unwrap_err().to_string()
        };
        assert_eq!(refused(Some("2h"), None), "a jitter is 0s to 1h; write it like 30s or 5m");
        assert!(refused(Some("soon"), None).contains("`soon`"));
        assert!(refused(None, Some("5s")).contains("at least 10s"));
        assert!(refused(None, Some("soon")).contains("`soon`"));
    }

    #[test]
    fn jitter_is_within_its_bound_and_always_the_same() {
        let spec = ScheduleTrigger {
            cron: "@hourly".into(),
            jitter: Some(Span::new("5m")),
            ..ScheduleTrigger::default()
        };
        let table = Timetable::new(&spec, false, "uid").unwrap();
        let other = Timetable::new(&spec, false, "another").unwrap();
        let ticks = (0..100).map(|hour| at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(hour));
        let late: Vec<_> = ticks.clone().map(|tick| table.due(tick).duration_since(tick)).collect();
        assert!(late.iter().all(|late| (SignedDuration::ZERO..=SignedDuration::from_mins(5)).contains(late)));
        assert!(late.iter().max() > Some(&SignedDuration::from_mins(4)), "it uses its bound");
        assert_eq!(late, ticks.clone().map(|tick| table.due(tick).duration_since(tick)).collect::<Vec<_>>());
        assert_ne!(late, ticks.map(|tick| other.due(tick).duration_since(tick)).collect::<Vec<_>>());
    }
}
