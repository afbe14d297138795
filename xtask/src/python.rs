//! Virtual environments of Python, with pip and what a project's tests name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{Cache, Key, remove};
use crate::run::{command, output, run, step};
use crate::tools;

/// Installs what a project file names for itself and for its tests.
const INSTALL: &str = "\
import subprocess, sys, tomllib
project = tomllib.load(open(sys.argv[1], 'rb'))['project']
wanted = project.get('dependencies', []) + project['optional-dependencies']['test']
pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
subprocess.check_call(pip + wanted)
";

/// The interpreter of an environment for this project, or of one with pip alone. Kept until the project
/// file changes.
pub(crate) fn environment(cache: &Cache, project: Option<&Path>) -> Result<PathBuf> {
    tools::require_python()?;
    let mut key = Key::new("1").with(INSTALL).with(output(&mut command("python3", ["--version"]))?);
    if let Some(project) = project {
        key = key.with_files(project)?;
    }
    let venv = cache.folder("venv")?.join(key.hex());
    let python = venv.join("bin/python");
    // It knows its own path, so it cannot be made elsewhere and renamed; the mark says that it is whole.
    let whole = venv.join("whole");
    if whole.exists() {
        return Ok(python);
    }
    step("Python environment", || {
        remove(&venv)?;
        run(command("python3", ["-m", "venv"]).arg(&venv))?;
        if let Some(project) = project {
            run(command(&python, ["-c", INSTALL]).arg(project))?;
        }
        Ok(fs::write(&whole, "")?)
    })?;
    Ok(python)
}
