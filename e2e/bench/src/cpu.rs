//! CPU time and memory of processes, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A process, and the CPU time of its threads so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// What all threads that live have run so far.
    pub(crate) fn cpu(self) -> Result<Duration> {
        let folder = format!("/proc/{}/task", self.0);
        let threads = fs::read_dir(&folder).with_context(|| format!("list {folder}"))?;
        // A thread that ends between listing and reading is one that did nothing lately.
        let read = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("schedstat")).ok();
        let texts = threads.filter_map(|thread| read(thread.ok()?));
        Ok(texts.filter_map(|text| nanoseconds(&text)).map(Duration::from_nanos).sum())
    }

    /// Forgets the most memory that it ever had resident; says in bytes what it has now.
    pub(crate) fn peak_from_now(self) -> Result<u64> {
        // proc(5): 5 resets the high-water mark.
        let file = format!("/proc/{}/clear_refs", self.0);
        fs::write(&file, "5").with_context(|| format!("write {file}"))?;
        self.peak()
    }

    /// The most memory that it had resident since, in bytes.
    pub(crate) fn peak(self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        in_bytes(&status, "VmHWM:").with_context(|| format!("find the high-water mark in {file}"))
    }

    /// The memory that it has resident now, in bytes.
    pub(crate) fn resident(self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        in_bytes(&status, "VmRSS:").with_context(|| format!("find the resident memory in {file}"))
    }

    /// The process of this machine that listens on a TCP port; none where it may not be looked at.
    pub(crate) fn listening_on(port: u16) -> Option<Self> {
        let table = |name| fs::read_to_string(name).unwrap_or_default();
        let tables = table("/proc/net/tcp") + &table("/proc/net/tcp6");
        let inode = tables.lines().find_map(|line| listener(line, port))?;
        let socket = format!("socket:[{inode}]");
        let holds = |id: &u32| {
            let files = fs::read_dir(format!("/proc/{id}/fd")).ok();
            let mut links =
                files.into_iter().flatten().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            links.any(|link| link.as_os_str() == socket.as_str())
        };
        let all = fs::read_dir("/proc").ok()?;
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(holds).map(Self)
    }
}

/// proc(5): nanoseconds on a CPU, nanoseconds waiting, turns.
fn nanoseconds(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

/// proc(5): in KiB.
fn in_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The inode of a socket that listens on that port, from its line in `/proc/net/tcp`.
fn listener(line: &str, port: u16) -> Option<&str> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = fields.get(1)?.rsplit_once(':')?.1;
    let listens = *fields.get(3)? == LISTENING && u16::from_str_radix(local, 16).ok()? == port;
    fields.get(9).copied().filter(|_| listens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_on(socket.local_addr().unwrap().port()).unwrap();
        assert_eq!(found.0, std::process::id());
    }

    #[test]
    fn memory_that_was_given_back_still_counts() {
        let me = Process(std::process::id());
        let before = me.peak_from_now().unwrap();
        let used = vec![1_u8; 64 << 20];
        assert!(used.iter().step_by(4096).all(|byte| *byte == 1));
        drop(used);
        assert!(me.peak().unwrap() >= before + (60 << 20));
    }

    #[test]
    fn work_costs_cpu_time() {
        let me = Process(std::process::id());
        let (before, began) = (me.cpu().unwrap(), std::time::Instant::now());
        while me.cpu().unwrap() < before + Duration::from_millis(20) {
            assert!(began.elapsed() < Duration::from_secs(20), "no CPU time is counted");
        }
    }
}
