//! The language hosts on a laptop: their sources ride in this binary and run under the interpreters found in PATH.

use std::io;
use std::path::{Path, PathBuf};

use funcatron_runner::host_process::{HostProcess, LineSink};
use include_dir::{Dir, include_dir};
use thiserror::Error;

static PYTHON: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../runner/hosts/python/src");
static NODE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../runner/hosts/node/src");

/// Why a runtime's Fns cannot be served.
#[derive(Debug, Error)]
pub(crate) enum HostError {
    #[error("{program} is not installed, or not in PATH: install it ({hint}), then start again")]
    Missing { program: &'static str, hint: &'static str },
    #[error("cannot write the {runtime} host below {folder}: {source}")]
    Unpack { runtime: &'static str, folder: PathBuf, source: io::Error },
    #[error("there is no host for runtime {0}")]
    Unknown(String),
}

/// How one runtime is started.
struct Interpreter {
    runtime: &'static str,
    program: &'static str,
    hint: &'static str,
    sources: &'static Dir<'static>,
}

const INTERPRETERS: [Interpreter; 2] = [
    Interpreter {
        runtime: "python",
        program: "python3",
        hint: "Debian: apt install python3",
        sources: &PYTHON,
    },
    Interpreter { runtime: "node", program: "node", hint: "Debian: apt install nodejs", sources: &NODE },
];

/// A host's sources on disk, ready to be started with a control socket.
#[derive(Debug, Clone)]
pub(crate) struct HostProgram {
    program: PathBuf,
    folder: PathBuf,
    runtime: &'static str,
}

impl HostProgram {
    /// Finds the interpreter and writes the host's sources into `folder`.
    pub(crate) fn unpack(runtime: &str, folder: &Path) -> Result<Self, HostError> {
        let interpreter = INTERPRETERS
            .iter()
            .find(|interpreter| interpreter.runtime == runtime)
            .ok_or_else(|| HostError::Unknown(runtime.to_owned()))?;
        let Interpreter { runtime, program, hint, sources } = interpreter;
        let program = in_path(program).ok_or(HostError::Missing { program, hint })?;
        let folder = folder.join(runtime);
        std::fs::create_dir_all(&folder)
            .and_then(|()| sources.extract(&folder))
            .map_err(|source| HostError::Unpack { runtime, folder: folder.clone(), source })?;
        Ok(Self { program, folder, runtime })
    }

    /// The process that listens on that control socket.
    pub(crate) fn process(&self, control_socket: &Path, output: LineSink) -> HostProcess {
        let socket = control_socket.display().to_string();
        let control = ["--control".to_owned(), socket, "--exit-with-stdin".to_owned()];
        let folder = self.folder.display().to_string();
        let (start, env) = match self.runtime {
            "node" => (vec![format!("{folder}/main.js")], vec![]),
            _ => {
                (vec!["-m".to_owned(), "funcatron_host".to_owned()], vec![("PYTHONPATH".to_owned(), folder)])
            }
        };
        HostProcess {
            program: self.program.clone(),
            args: start.into_iter().chain(control).collect(),
            env,
            output,
        }
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planned_runtime_has_a_host() {
        for runtime in crate::dev::plan::RUNTIMES {
            assert!(INTERPRETERS.iter().any(|interpreter| interpreter.runtime == runtime), "{runtime}");
        }
    }

    #[test]
    fn the_sources_of_every_host_ride_in_the_binary() {
        assert!(PYTHON.get_file("funcatron_host/__main__.py").is_some());
        assert!(NODE.get_file("main.js").is_some());
    }
}
