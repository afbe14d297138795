//! A `funcatron dev` under test: the real binary with real interpreters, what it prints, and requests to it.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod spill;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whatever is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the product promises of a change.
pub(crate) const EFFECT_MAX: Duration = Duration::from_secs(2);

/// One test at a time: several hosts starting at once would make times mean nothing.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// A test that starts a second `dev` has its turn already.
    static MINE: RefCell<Weak<MutexGuard<'static, ()>>> = const { RefCell::new(Weak::new()) };
}

fn turn() -> Rc<MutexGuard<'static, ()>> {
    MINE.with_borrow_mut(|mine| {
        mine.upgrade().unwrap_or_else(|| {
            let turn = Rc::new(TURN.lock().unwrap_or_else(PoisonError::into_inner));
            *mine = Rc::downgrade(&turn);
            turn
        })
    })
}

pub(crate) fn funcatron() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_funcatron"));
    command.env_remove("RUST_LOG").env_remove("FUNCATRON_DEV_PORT").env_remove("FUNCATRON_DEV_AMQP");
    command
}

/// Waits until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A running `dev`, ended when dropped.
pub(crate) struct Dev {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    public: String,
    _turn: Rc<MutexGuard<'static, ()>>,
}

impl Dev {
    /// Starts it on free ports and waits until it is ready.
    pub(crate) fn start(path: &Path) -> Self {
        Self::start_as(path, |command| command)
    }

    /// Likewise, with more arguments or another environment.
    pub(crate) fn start_as(path: &Path, adjust: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let turn = turn();
        let mut command = funcatron();
        command.arg("dev").arg(path).args(["--port", "0"]);
        adjust(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        let mut dev = Self { child, lines, public: String::new(), _turn: turn };
        let ready = dev.line(0, &["ready: http://"]);
        dev.public = ready.split_whitespace().nth(1).unwrap().trim_start_matches("http://").to_owned();
        dev
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many lines there are by now: what comes after is news.
    pub(crate) fn mark(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line after `mark` that holds all the words.
    pub(crate) fn line(&self, mark: usize, words: &[&str]) -> String {
        eventually(&format!("line with {words:?} in {:#?}", Shown(&self.lines)), || {
            let lines = self.lines();
            lines.into_iter().skip(mark).find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        request(&self.public, "GET", path).unwrap()
    }

    pub(crate) fn public(&self) -> String {
        self.public.clone()
    }

    /// Calls a Fn at the URL that is shown for it.
    pub(crate) fn invoke(&self, fn_name: &str) -> Answer {
        let shown = self.line(0, &[&format!("  {fn_name} "), "/invoke/default/"]);
        let url = shown.split_whitespace().nth(1).unwrap().trim_start_matches("http://").to_owned();
        let (address, path) = url.split_once('/').unwrap();
        request(address, "POST", &format!("/{path}")).unwrap()
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("end of dev", || child.try_wait().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("dev wrote: {:#?}", self.lines());
        }
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Killed, it would leave its temporary folder behind.
            let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                std::thread::sleep(LOOK_AGAIN);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

struct Shown<'a>(&'a Mutex<Vec<String>>);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.lock().unwrap().iter()).finish()
    }
}

fn collect(stream: impl std::io::Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// One request on a connection of its own.
pub(crate) fn request(address: &str, method: &str, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = String::new();
    write!(head, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").unwrap();
    write!(head, "Content-Length: 0\r\n\r\n").unwrap();
    stream.write_all(head.as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(text.to_string()))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(|| std::io::Error::other(head.to_owned()))?,
        body: body.to_owned(),
    })
}

/// Callers that ask for one path without a pause, to see whether any call is lost.
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Callers {
    pub(crate) fn start(dev: &Dev, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (address, stop) = (dev.public(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut calls, mut lost) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    match request(&address, "GET", path) {
                        Ok(answer) if answer.status == 200 => {}
                        other => lost.push(format!("{other:?}")),
                    }
                }
                (calls, lost)
            })
        };
        Self { threads: (0..3).map(call).collect(), stop }
    }

    /// Every call so far was answered 200; answers how many there were.
    pub(crate) fn none_lost(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap());
        ended.fold(0, |all, (calls, lost)| {
            assert!(lost.is_empty(), "{} of {calls} calls lost: {:?}", lost.len(), lost.first());
            all + calls
        })
    }
}

pub(crate) const APP: &str =
    "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n---\n";

/// A Python Fn that answers with a text, and a Route `/<name>` to it.
pub(crate) fn says(name: &str, text: &str) -> String {
    python(name, &format!("return {{\"statusCode\": 200, \"body\": \"{text}\"}}"))
}

/// A Python Fn whose handler has this one line, and a Route `/<name>` to it.
pub(crate) fn python(name: &str, line: &str) -> String {
    format!(
        "apiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  \
         runtime: python\n  source:\n    inline: |\n      def handler(event, context):\n          {line}\n---\n{}",
        route(name)
    )
}

pub(crate) fn route(name: &str) -> String {
    format!(
        "apiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  rules:\n  \
         - matches: [{{path: {{value: /{name}}}}}]\n    backends: [{{fn: {name}}}]\n---\n"
    )
}

/// Writes as an editor does: beside, then in its place.
pub(crate) fn write(folder: &Path, file: &str, text: &str) {
    let beside = folder.join(format!(".{file}.new"));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, folder.join(file)).unwrap();
}

/// A copy of the example, free to be changed.
pub(crate) fn copy_of_the_shop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    for entry in std::fs::read_dir(shop).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    folder
}

/// Every process below this one.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        found.extend(ids.filter(|id| stat(*id).is_some_and(|(_, its)| its == parent)));
    }
    found.split_off(1)
}

/// Whether a process still runs; a zombie does not.
pub(crate) fn runs(id: u32) -> bool {
    stat(id).is_some_and(|(state, _)| state != "Z")
}

fn stat(id: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before it may hold blanks and parentheses.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
