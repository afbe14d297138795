//! Which commit a change is compared with, what stands in it, and what the commits since then grant. Reads the
//! repository and never changes it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::compare::{self, Grant};
use super::measure::CRATES;
use crate::cache::remove;
use crate::run::{command, output, run};

/// The branch that changes go to, as a clone knows it and as it is known where nothing was cloned.
const MAIN: [&str; 2] = ["origin/main", "main"];

/// A commit that can be counted.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) id: String,
    /// As a person knows it.
    pub(super) summary: String,
}

/// What to compare with.
#[derive(Debug)]
pub(super) enum Base {
    At(Commit),
    /// Why there is nothing.
    None(String),
}

/// The commit where this one leaves the main branch; on that branch, the one before.
pub(super) fn find(checkout: &Path, asked: Option<&str>) -> Base {
    let Some(head) = resolve(checkout, "HEAD") else {
        return Base::None("there is no history of git here".to_owned());
    };
    let id = match asked {
        Some(asked) => resolve(checkout, asked),
        None => before(checkout, &head),
    };
    let Some(id) = id else {
        return Base::None(format!("no commit {} is known here", asked.unwrap_or("before this one")));
    };
    let summary =
        git(checkout, &["show", "--no-patch", "--format=%h %s", &id]).unwrap_or_else(|_| id.clone());
    if has_benches(checkout, &id) {
        Base::At(Commit { id, summary })
    } else {
        Base::None(format!("{summary} counts nothing yet"))
    }
}

fn before(checkout: &Path, head: &str) -> Option<String> {
    let main = MAIN.iter().find_map(|main| resolve(checkout, main));
    let fork = main.and_then(|main| git(checkout, &["merge-base", head, &main]).ok());
    fork.filter(|fork| fork != head).or_else(|| resolve(checkout, "HEAD~1"))
}

/// The commit that the checkout is, where it is one and nothing else.
pub(super) fn clean_head(checkout: &Path) -> Option<String> {
    let changed = git(checkout, &["status", "--porcelain"]).ok()?;
    resolve(checkout, "HEAD").filter(|_| changed.is_empty())
}

fn resolve(checkout: &Path, name: &str) -> Option<String> {
    let commit = format!("{name}^{{commit}}");
    git(checkout, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).ok()
}

fn has_benches(checkout: &Path, id: &str) -> bool {
    let has =
        |name: &str| git(checkout, &["cat-file", "-e", &format!("{id}:{name}/benches/counts.rs")]).is_ok();
    CRATES.iter().any(|name| has(name))
}

/// Writes a commit's files, and nothing into the repository: it may be another's, or be read-only.
pub(super) fn write_tree(checkout: &Path, id: &str, folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let archive = folder.with_extension("tar");
    let mut git = command("git", ["archive", "--format=tar"]);
    run(git.current_dir(checkout).arg("--output").arg(&archive).arg(id))?;
    // `--touch`: as old as they are here, not as old as the commit, for cargo's sake.
    let mut tar = command("tar", ["--extract", "--touch", "--file"]);
    run(tar.arg(&archive).arg("--directory").arg(folder))?;
    remove(&archive)
}

/// What the commits since `base` let through.
pub(super) fn grants(checkout: &Path, base: &str) -> Result<Vec<Grant>> {
    let range = format!("{base}..HEAD");
    let format = format!("--format=%(trailers:key={},valueonly,unfold)", compare::TRAILER);
    let said = git(checkout, &["log", &format, &range])?;
    Ok(said.lines().filter_map(Grant::parse).collect())
}

fn git(checkout: &Path, arguments: &[&str]) -> Result<String> {
    let said = output(command("git", arguments).current_dir(checkout))?;
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one commit for each of these messages; those from `benches_from` on hold a bench.
    fn repository(messages: &[&str], benches_from: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        git(at, &["init", "--quiet", "--initial-branch=main"]).unwrap();
        for (index, message) in messages.iter().enumerate() {
            fs::write(at.join("file"), index.to_string()).unwrap();
            if index == benches_from {
                fs::create_dir_all(at.join("broker/benches")).unwrap();
                fs::write(at.join("broker/benches/counts.rs"), "").unwrap();
            }
            commit(at, message);
        }
        folder
    }

    fn commit(at: &Path, message: &str) {
        git(at, &["add", "."]).unwrap();
        let who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"];
        git(at, &[&who[..], &["commit", "--quiet", "--message", message]].concat()).unwrap();
    }

    fn summary(base: Base) -> String {
        match base {
            Base::At(Commit { summary, .. }) => summary.split_once(' ').unwrap().1.to_owned(),
            Base::None(why) => panic!("no base: {why}"),
        }
    }

    #[test]
    fn on_the_main_branch_the_base_is_the_commit_before() {
        let repository = repository(&["one", "two", "three"], 0);
        assert_eq!(summary(find(repository.path(), None)), "two");
    }

    #[test]
    fn on_a_branch_the_base_is_where_it_leaves_the_main_branch() {
        let repository = repository(&["one", "two"], 0);
        let at = repository.path();
        git(at, &["switch", "--quiet", "--create", "change"]).unwrap();
        for message in ["three", "four"] {
            fs::write(at.join("file"), message).unwrap();
            commit(at, message);
        }
        assert_eq!(summary(find(at, None)), "two");
        assert_eq!(summary(find(at, Some("HEAD~1"))), "three");
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let nothing = tempfile::tempdir().unwrap();
        let first = repository(&["one"], 0);
        let without = repository(&["one", "two"], 1);
        for (at, asked, why) in [
            (nothing.path(), None, "no history"),
            (first.path(), None, "no commit before this one"),
            (first.path(), Some("--nonsense"), "no commit --nonsense is known"),
            (without.path(), None, "one counts nothing yet"),
        ] {
            let Base::None(said) = find(at, asked) else { panic!("{why}: there is a base") };
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn every_commit_since_the_base_may_grant() {
        let messages = [
            "one\n\nCounts: find before the base",
            "two",
            "three\n\nWords.\n\nCounts: codec::call_to_envelope it says the version\n  of the wire",
            "four\n\nCounts: routing::find folded paths",
        ];
        let repository = repository(&messages, 0);
        let granted = grants(repository.path(), "HEAD~2").unwrap();
        let benches: Vec<&str> = granted.iter().map(|grant| grant.bench.as_str()).collect();
        assert_eq!(benches, ["routing::find", "codec::call_to_envelope"]);
        assert_eq!(granted[1].reason, "it says the version of the wire");
    }

    #[test]
    fn a_checkout_with_changes_is_no_commit() {
        let repository = repository(&["one"], 0);
        let at = repository.path();
        assert_eq!(clean_head(at), resolve(at, "HEAD"));
        fs::write(at.join("new"), "").unwrap();
        assert_eq!(clean_head(at), None);
    }

    #[test]
    fn a_tree_is_that_of_its_commit_and_nothing_older() {
        let repository = repository(&["one", "two"], 0);
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("left-over"), "").unwrap();
        write_tree(repository.path(), "HEAD~1", &tree).unwrap();
        assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "0");
        assert!(!tree.join("left-over").exists());
    }
}
