//! Cases of one file each: a Route in, its table or its problems out.
//! `UPDATE_GOLDEN=1 cargo test -p funcatron-routing --test golden` writes what comes out; read the difference.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its helpers do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use funcatron_routing::{ExplicitRule, OperationOverride, RouteSource, RouteTable, Rules, compile};
use serde::Deserialize;
use serde_json::{Value, json};

/// A Route as the cases write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// The rule that the case shows.
    #[serde(rename = "rule")]
    _rule: String,
    #[serde(default = "team_a")]
    namespace: String,
    #[serde(default)]
    hostnames: Vec<String>,
    base_path: Option<String>,
    #[serde(rename = "fn")]
    fn_default: Option<String>,
    #[serde(default)]
    operations: BTreeMap<String, OperationOverride>,
    #[serde(default)]
    rules: Vec<ExplicitRule>,
    document: Option<String>,
}

fn team_a() -> String {
    "team-a".to_owned()
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn read(path: &Path) -> Case {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(case: &Case) -> Result<RouteTable, funcatron_routing::CompileError> {
    let rules = match &case.document {
        Some(document) => Rules::OpenApi {
            document: document.as_bytes(),
            fn_default: case.fn_default.as_deref(),
            operations: &case.operations,
        },
        None => Rules::Explicit(&case.rules),
    };
    compile(&RouteSource {
        namespace: &case.namespace,
        name: "orders-api",
        app: "shop",
        hostnames: &case.hostnames,
        base_path: case.base_path.as_deref(),
        created_ms: 1_700_000_000_000,
        uid: "0b6a3a7e",
        rules,
    })
}

fn outcome(case: &Case) -> Value {
    match run(case) {
        Ok(table) => json!({ "table": table }),
        Err(error) => {
            let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
            json!({ "problems": lines })
        }
    }
}

#[test]
fn each_case_gives_what_stands_beside_it() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let actual = serde_json::to_string_pretty(&outcome(&read(&path))).unwrap() + "\n";
        let expected_at = path.with_extension("json");
        if update {
            fs::write(&expected_at, &actual).unwrap();
        }
        let expected = fs::read_to_string(&expected_at).unwrap_or_default();
        if actual != expected {
            wrong.push(format!("{}\n{actual}", expected_at.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The oracle is another reader of OpenAPI 3.0 altogether.
#[test]
fn openapi_30_operations_are_those_that_openapiv3_reads() {
    let mut compared = 0;
    for path in cases() {
        let case = read(&path);
        let (Ok(table), Some(document)) = (run(&case), &case.document) else { continue };
        if !document.contains("openapi: 3.0") {
            continue;
        }
        let document: openapiv3::OpenAPI =
            serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let theirs: BTreeSet<(String, String, Option<String>)> = document
            .operations()
            .map(|(path, method, operation)| {
                (path.to_owned(), method.to_uppercase(), operation.operation_id.clone())
            })
            .collect();
        let ours: BTreeSet<(String, String, Option<String>)> = table
            .rules()
            .iter()
            .map(|rule| {
                let method = rule.method().unwrap().to_string();
                (rule.path().text().to_owned(), method, rule.operation_id().map(str::to_owned))
            })
            .collect();
        assert_eq!(ours, theirs, "{}", path.display());
        compared += 1;
    }
    assert!(compared >= 3, "{compared} documents compared");
}
