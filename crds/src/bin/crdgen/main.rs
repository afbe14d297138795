//! Writes what follows from the API types: the chart's CustomResourceDefinitions and their reference for users.
//! Run it after a change of the types: `cargo run -p funcatron-crds --bin crdgen`.
#![allow(clippy::print_stdout, reason = "a tool for developers, who want to see what it wrote")]

mod chart;
mod reference;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use funcatron_crds::definitions;

/// The command, as the files and the test tell it.
const COMMAND: &str = "cargo run -p funcatron-crds --bin crdgen";

fn main() -> ExitCode {
    match write_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all() -> Result<(), String> {
    for (path, content) in generated()? {
        let path = root().join(path);
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(&path, content).map_err(failed)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Each file by its path below the project's root.
fn generated() -> Result<Vec<(PathBuf, String)>, String> {
    let definitions = definitions();
    let mut files = vec![(PathBuf::from("docs/crds.md"), reference::document(&definitions))];
    for definition in &definitions {
        let path = format!("charts/funcatron/templates/crds/{}.yaml", definition.plural);
        let template = chart::template(&definition.value).map_err(|e| format!("cannot write {path}: {e}"))?;
        files.push((path.into(), template));
    }
    Ok(files)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the project")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client-side apply keeps a copy of the object in an annotation of 256 KiB; ours stay far below.
    const BYTES_MAX: usize = 60_000;

    #[test]
    fn generated_files_follow_the_types() {
        for (path, content) in generated().unwrap() {
            let stands = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
            assert!(stands == content, "{} differs from the API types; run `{COMMAND}`", path.display());
        }
    }

    #[test]
    fn each_definition_is_small() {
        for (path, content) in generated().unwrap() {
            let definition = path.extension().is_some_and(|e| e == "yaml");
            assert!(!definition || content.len() < BYTES_MAX, "{} has {}", path.display(), content.len());
        }
    }
}
