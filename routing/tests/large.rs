//! Documents of the size that users really have, and of the size that attackers send.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its helpers do")]

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use funcatron_routing::{
    CompileError, EncodedTable, Found, OwnHost, RouteSource, RouteTable, Rules, Tables, compile,
};
use http::{HeaderMap, Method};

#[path = "support/kubernetes.rs"]
mod kubernetes;

/// Far above what these take (tenths of a second, unoptimised) and far below what a blow-up would.
const PATIENCE: Duration = Duration::from_secs(60);

fn compile_document(document: &[u8]) -> Result<RouteTable, CompileError> {
    compile(&RouteSource {
        namespace: "team-a",
        name: "kubernetes",
        app: "kubernetes",
        hostnames: &[],
        base_path: None,
        created_ms: 0,
        uid: "",
        rules: Rules::OpenApi { document, fn_default: Some("bundle"), operations: &BTreeMap::new() },
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The problem of a document that is refused in time.
fn refusal(document: &[u8]) -> String {
    let start = Instant::now();
    let error = compile_document(document).unwrap_err().to_string();
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    assert!(error.len() < 16 * 1024, "{} bytes", error.len());
    error
}

#[test]
fn each_path_of_a_document_like_kube_apiservers_finds_its_own_operation() {
    let document = kubernetes::document();
    let json = document.to_string();
    assert!(json.len() > 2_500_000, "{} bytes", json.len());
    let packed = gzip(json.as_bytes());
    assert!(packed.len() < 1_000_000, "{} bytes", packed.len());

    let start = Instant::now();
    let table = compile_document(&packed).unwrap();
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    assert!(table.operations() > 1000, "{} operations", table.operations());
    assert_eq!(table.targets().into_iter().collect::<Vec<_>>(), ["bundle"]);

    let encoded = match table.encode().unwrap() {
        EncodedTable::Gzip(bytes) => bytes,
        EncodedTable::Json(text) => panic!("{} bytes are readable still?", text.len()),
    };
    assert!(encoded.len() < 100_000, "{} bytes", encoded.len());
    assert_eq!(RouteTable::decode(&encoded).unwrap(), table);

    let tables = Tables::new(OwnHost::Unclaimed).replace(&table.key(), Some(table));
    let mut found_count = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let method: Method = method.to_uppercase().parse().unwrap();
            let concrete = format!("/team-a{}", path.replace(['{', '}'], "-"));
            let Found::Match(found) = tables.find("any.test", &method, &concrete, &HeaderMap::new()) else {
                panic!("{method} {concrete}");
            };
            assert_eq!(found.operation_id, operation["operationId"].as_str(), "{method} {concrete}");
            assert_eq!(found.template, path);
            found_count += 1;
        }
    }
    assert_eq!(found_count, tables.routes().next().unwrap().operations());
}

#[test]
fn the_same_document_in_yaml_compiles_to_the_same_table() {
    let document = kubernetes::document();
    let yaml = serde_yaml::to_string(&document).unwrap();
    let start = Instant::now();
    assert_eq!(compile_document(yaml.as_bytes()), compile_document(document.to_string().as_bytes()));
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}

#[test]
fn a_gzip_bomb_is_refused_before_it_unfolds() {
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < 1_000_000);
    assert!(refusal(&bomb).contains("larger than 8 MiB"));
    let table_bomb = RouteTable::decode(&bomb).unwrap_err();
    assert!(table_bomb.to_string().contains("unpacks to more than"), "{table_bomb}");
}

#[test]
fn broken_gzip_is_named() {
    assert!(refusal(&[0x1f, 0x8b, 8, 0]).contains("broken gzip"));
    let mut cut = gzip(kubernetes::document().to_string().as_bytes());
    cut.truncate(cut.len() / 2);
    assert!(refusal(&cut).contains("broken gzip"));
}

#[test]
fn a_document_above_the_limit_is_refused() {
    assert!(refusal(&vec![b'a'; 8 * 1024 * 1024 + 1]).contains("larger than 8 MiB"));
}

#[test]
fn text_that_is_no_utf8_is_named_by_its_byte() {
    assert!(refusal(b"openapi: \xff").contains("not UTF-8, from byte 9 on"));
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = |open: &str| open.repeat(4_000_000 / open.len());
    for document in [
        deep("["),
        format!("{{\"a\":{}", deep("[")),
        format!("{{\"paths\":{{\"/a\":{}", deep("{\"a\":")),
        deep("- "),
        format!("a: {}", deep("{a: ")),
        format!("openapi: 3.0.0\npaths:\n  /a: {}", deep("[")),
    ] {
        refusal(document.as_bytes());
    }
}

#[test]
fn a_billion_laughs_are_refused() {
    let mut document = "openapi: 3.0.0\na0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{},", level - 1).repeat(10);
        document += &format!("a{level}: &a{level} [{below}]\n");
    }
    document += "paths: *a9\n";
    refusal(document.as_bytes());
}

#[test]
fn more_operations_than_a_table_holds_are_refused() {
    let paths: Vec<String> =
        (0..5001).map(|at| format!("\"/p{at}\":{{\"get\":{{}},\"put\":{{}}}}")).collect();
    let document = format!("{{\"openapi\":\"3.0.0\",\"paths\":{{{}}}}}", paths.join(","));
    assert!(refusal(document.as_bytes()).contains("more than 10000 operations"));
    let paths: Vec<String> = (0..10_001).map(|at| format!("\"/p{at}\":{{}}")).collect();
    let document = format!("{{\"openapi\":\"3.0.0\",\"paths\":{{{}}}}}", paths.join(","));
    assert!(refusal(document.as_bytes()).contains("more than 10000 members"));
}

#[test]
fn ten_thousand_operations_fit_a_config_map() {
    let paths: Vec<String> = (0..5000)
        .map(|at| {
            let operation =
                |method| format!("\"{method}\":{{\"operationId\":\"{method}SomethingNumber{at}\"}}");
            let path = format!("/things/{:x}/{{id}}/parts/{at}", at * 2_654_435_761_u64 % 1_000_003);
            format!("\"{path}\":{{{},{}}}", operation("get"), operation("put"))
        })
        .collect();
    let document = format!("{{\"openapi\":\"3.0.0\",\"paths\":{{{}}}}}", paths.join(","));
    let table = compile_document(document.as_bytes()).unwrap();
    assert_eq!(table.operations(), 10_000);
    assert!(matches!(table.encode().unwrap(), EncodedTable::Gzip(bytes) if bytes.len() < 500_000));
}

#[test]
fn a_reference_that_multiplies_operations_is_bounded() {
    let item = ["get", "put", "post", "delete", "options", "head", "patch", "trace"]
        .map(|method| format!("\"{method}\":{{}}"))
        .join(",");
    let paths: Vec<String> =
        (0..9_000).map(|at| format!("\"/p{at}\":{{\"$ref\":\"#/components/pathItems/i\"}}")).collect();
    let document = format!(
        "{{\"openapi\":\"3.1.0\",\"paths\":{{{}}},\"components\":{{\"pathItems\":{{\"i\":{{{item}}}}}}}}}",
        paths.join(",")
    );
    assert!(refusal(document.as_bytes()).contains("more than 10000 operations"));
}

#[test]
fn twenty_problems_are_shown_and_the_rest_counted() {
    let paths: Vec<String> = (0..100).map(|at| format!("\"/p{at}\":{{\"gett\":{{}}}}")).collect();
    let document = format!("{{\"openapi\":\"3.0.0\",\"paths\":{{{}}}}}", paths.join(","));
    let error = compile_document(document.as_bytes()).unwrap_err();
    assert_eq!((error.problems().len(), error.total()), (20, 100));
    assert!(error.to_string().ends_with("… and 80 more"));
}

#[test]
fn a_search_among_all_ways_back_is_bounded_by_the_nodes() {
    // Each of twelve segments as a literal and as a parameter: 4096 templates, all of which the path fits.
    let paths: Vec<String> = (0..4096_u32)
        .map(|bits| {
            let segment = |at: u32| if bits >> at & 1 == 1 { format!("/{{p{at}}}") } else { "/a".to_owned() };
            let path: String = (0..12).map(segment).collect();
            format!("\"{path}\":{{\"post\":{{}}}}")
        })
        .collect();
    let document = format!("{{\"openapi\":\"3.0.0\",\"paths\":{{{}}}}}", paths.join(","));
    let table = compile_document(document.as_bytes()).unwrap();
    let tables = Tables::new(OwnHost::Unclaimed).replace(&table.key(), Some(table));
    let path = format!("/team-a{}", "/a".repeat(12));
    let start = Instant::now();
    for _ in 0..10 {
        let found = tables.find("any.test", &Method::GET, &path, &HeaderMap::new());
        assert!(matches!(found, Found::MethodNotAllowed { .. }));
    }
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}
