//! Counts what ran: the function tells this process before it does anything, and again when it is done.
//!
//! A file of the function's own would go with its pod, and what is still in a process' memory with its process. What
//! was told here is in this process, which no fault touches, and in a file that is only appended to, before the
//! function hears that it may go on. A run has an id of its own, so that telling twice counts once.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::tally::{Run, Runs};

/// A line is an id, two numbers and a word.
const LINE_BYTES_MAX: usize = 256;

/// What has been told so far.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug)]
struct Told {
    file: File,
    /// By the run's id: the call's number and the run.
    runs: HashMap<String, (u64, Run)>,
}

/// One line: `<run> <number> <attempt> begin` or `… end`.
struct Line<'a> {
    run: &'a str,
    number: u64,
    attempt: u32,
    ended: bool,
}

impl Counter {
    /// Listens on an address that pods reach, and appends to a file.
    pub(crate) async fn start(host: IpAddr, file: &Path) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await.context("listen for what runs")?;
        let address = listener.local_addr().context("ask where runs are told")?;
        let file = File::options().create(true).append(true).open(file);
        let file = file.context("open the file of what ran")?;
        let told = Arc::new(Mutex::new(Told { file, runs: HashMap::new() }));
        tokio::spawn(accept(listener, Arc::clone(&told)));
        Ok(Self { address, told })
    }

    /// All runs so far, by the call's number.
    pub(crate) fn runs(&self) -> Runs {
        let mut by_number = Runs::new();
        for (number, run) in self.told.lock().runs.values() {
            by_number.entry(*number).or_default().push(*run);
        }
        by_number
    }

    /// Forgets what ran; the file keeps it.
    pub(crate) fn forget(&self) {
        self.told.lock().runs.clear();
    }
}

async fn accept(listener: TcpListener, told: Arc<Mutex<Told>>) {
    // A failed accept is a connection that is gone again: the function makes another.
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(listen(stream, Arc::clone(&told)));
        }
    }
}

/// Until the function hangs up, or says what makes no sense.
async fn listen(stream: TcpStream, told: Arc<Mutex<Told>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(LINE_BYTES_MAX, stream);
    let mut text = String::new();
    while stream.read_line(&mut text).await? > 0 {
        let Some(line) = parse(&text) else { return Ok(()) };
        told.lock().note(&line, &text)?;
        stream.write_all(b"ok\n").await?;
        text.clear();
    }
    Ok(())
}

impl Told {
    fn note(&mut self, line: &Line<'_>, text: &str) -> std::io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        let begun = (line.number, Run { attempt: line.attempt, ended: false });
        let (_, run) = self.runs.entry(line.run.to_owned()).or_insert(begun);
        run.ended |= line.ended;
        Ok(())
    }
}

fn parse(text: &str) -> Option<Line<'_>> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let (run, number, attempt, what) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let ended = match what {
        "begin" => false,
        "end" => true,
        _ => return None,
    };
    Some(Line { run, number: number.parse().ok()?, attempt: attempt.parse().ok()?, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tell(address: SocketAddr, lines: &[&str]) {
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        for line in lines {
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut word = String::new();
            stream.read_line(&mut word).await.unwrap();
            assert_eq!(word, "ok\n");
        }
    }

    #[tokio::test]
    async fn a_run_told_twice_counts_once_and_two_runs_count_twice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        let counter = Counter::start(IpAddr::from([127, 0, 0, 1]), &file).await.unwrap();
        tell(counter.address, &["a 7 1 begin\n", "a 7 1 begin\n", "a 7 1 end\n"]).await;
        tell(counter.address, &["b 7 2 begin\n"]).await;
        let mut runs = counter.runs().remove(&7).unwrap();
        runs.sort_by_key(|run| run.attempt);
        assert_eq!(runs, [Run { attempt: 1, ended: true }, Run { attempt: 2, ended: false }]);
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
        counter.forget();
        assert!(counter.runs().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_no_line() {
        for text in ["", "a 7 1 begin", "a b 1 begin\n", "a 7 1 middle\n", "a 7\n"] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}
