//! Reads how many tests ran from what the test programs print. Never performs I/O.

use std::ops::AddAssign;

/// Tests by their outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, ignored } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
    }
}

/// Whose words a summary line is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; …`
    Cargo,
    /// `5 passed, 1 failed, 1 skipped in 0.20s`
    Pytest,
    /// `# pass 5` or `ℹ pass 5`, a line for each outcome
    Node,
    /// `1 chart(s) linted, 0 chart(s) failed`
    HelmLint,
    /// `faults: 5 withstood, 1 not withstood`
    Faults,
}

impl Dialect {
    /// What a line of output adds; nothing for all but summary lines.
    pub(crate) fn count(self, line: &str) -> Count {
        let line = line.trim();
        match self {
            Self::Cargo => line.strip_prefix("test result: ").map_or(Count::default(), by_word),
            Self::Pytest if is_pytest_summary(line) => by_word(line.trim_matches(|c| c == '=' || c == ' ')),
            Self::Pytest => Count::default(),
            Self::Node => node(line),
            Self::HelmLint => helm_lint(line),
            Self::Faults => faults(line),
        }
    }
}

fn is_pytest_summary(line: &str) -> bool {
    let line = line.trim_matches(|c| c == '=' || c == ' ');
    line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" in ") && line.ends_with('s')
}

/// `<number> <outcome>`, wherever it stands.
fn by_word(line: &str) -> Count {
    let words: Vec<&str> = line.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
    let mut count = Count::default();
    for pair in words.windows(2) {
        let &[number, outcome] = pair else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        match outcome {
            "passed" | "xfailed" => count.passed += number,
            "failed" | "error" | "errors" | "xpassed" => count.failed += number,
            "ignored" | "skipped" => count.ignored += number,
            _ => {}
        }
    }
    count
}

fn node(line: &str) -> Count {
    let summary = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ "));
    let Some((outcome, number)) = summary.and_then(|summary| summary.split_once(' ')) else {
        return Count::default();
    };
    let Ok(number) = number.parse::<usize>() else { return Count::default() };
    match outcome {
        "pass" => Count { passed: number, ..Count::default() },
        "fail" | "cancelled" => Count { failed: number, ..Count::default() },
        "skipped" | "todo" => Count { ignored: number, ..Count::default() },
        _ => Count::default(),
    }
}

fn helm_lint(line: &str) -> Count {
    let Some((linted, failed)) = line.split_once(" chart(s) linted, ") else { return Count::default() };
    let failed = failed.trim_end_matches(" chart(s) failed").parse().unwrap_or_default();
    let linted: usize = linted.parse().unwrap_or_default();
    Count { passed: linted.saturating_sub(failed), failed, ignored: 0 }
}

fn faults(line: &str) -> Count {
    let numbers = line.strip_prefix("faults: ").and_then(|rest| rest.strip_suffix(" not withstood"));
    let pair = numbers.and_then(|numbers| numbers.split_once(" withstood, "));
    let Some((passed, failed)) = pair else { return Count::default() };
    let number = |text: &str| text.parse().unwrap_or_default();
    Count { passed: number(passed), failed: number(failed), ignored: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(passed: usize, failed: usize, ignored: usize) -> Count {
        Count { passed, failed, ignored }
    }

    #[test]
    fn each_dialects_summary_is_read() {
        let cases = [
            (
                Dialect::Cargo,
                "test result: ok. 5 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.00s",
                count(5, 1, 2),
            ),
            (Dialect::Pytest, "2 failed, 31 passed, 1 skipped in 4.20s", count(31, 2, 1)),
            (Dialect::Pytest, "===== 1 passed, 1 error in 0.1s =====", count(1, 1, 0)),
            (Dialect::Node, "# pass 7", count(7, 0, 0)),
            (Dialect::Node, "ℹ cancelled 2", count(0, 2, 0)),
            (Dialect::Faults, "faults: 13 withstood, 2 not withstood", count(13, 2, 0)),
            (Dialect::HelmLint, "1 chart(s) linted, 0 chart(s) failed", count(1, 0, 0)),
        ];
        for (dialect, line, expected) in cases {
            assert_eq!(dialect.count(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_that_only_look_like_a_summary_count_nothing() {
        for line in ["running 5 tests", "test 3 passed ... ok", "E   assert 2 passed in s", "# pass through"]
        {
            for dialect in
                [Dialect::Cargo, Dialect::Pytest, Dialect::Node, Dialect::HelmLint, Dialect::Faults]
            {
                assert_eq!(dialect.count(line), Count::default(), "{dialect:?}: {line}");
            }
        }
    }
}
