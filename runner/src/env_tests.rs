use std::fs;

use super::*;

fn config() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secrets/db");
    fs::create_dir_all(secret.join("..data")).unwrap();
    fs::write(secret.join("url"), "postgres://u:p@h/$(A)").unwrap();
    fs::write(secret.join("user"), "me").unwrap();
    fs::write(secret.join("2fa"), "no variable").unwrap();
    fs::write(secret.join("binary"), [0xff, 0xfe]).unwrap();
    fs::write(dir.path().join("outside"), "not theirs").unwrap();
    let map = dir.path().join("configmaps/shop");
    fs::create_dir_all(&map).unwrap();
    fs::write(map.join("GREETING"), "hello\n").unwrap();
    dir
}

fn key(object: ObjectKind, object_name: &str, key: &str, optional: bool) -> EnvEntry {
    EnvEntry::Key { name: "K".into(), object, object_name: object_name.into(), key: key.into(), optional }
}

fn all(object: ObjectKind, object_name: &str, prefix: &str, optional: bool) -> EnvEntry {
    EnvEntry::All { prefix: prefix.into(), object, object_name: object_name.into(), optional }
}

fn value(name: &str, value: &str) -> EnvEntry {
    EnvEntry::Value { name: name.into(), value: value.into() }
}

#[test]
fn keys_come_from_their_volumes_and_are_not_expanded() {
    let dir = config();
    let env = resolve(dir.path(), &[value("A", "a"), key(ObjectKind::Secret, "db", "url", false)]).unwrap();
    assert_eq!(env["K"], "postgres://u:p@h/$(A)");
    let env = resolve(dir.path(), &[key(ObjectKind::ConfigMap, "shop", "GREETING", false)]).unwrap();
    assert_eq!(env["K"], "hello\n");
}

#[test]
fn a_later_entry_wins() {
    let dir = config();
    let entries = [all(ObjectKind::ConfigMap, "shop", "", false), value("GREETING", "mine")];
    assert_eq!(resolve(dir.path(), &entries).unwrap()["GREETING"], "mine");
}

#[test]
fn a_missing_key_is_named_unless_it_may_be_missing() {
    let dir = config();
    for (object, name) in [("db", "password"), ("other", "url")] {
        let error = resolve(dir.path(), &[key(ObjectKind::Secret, object, name, false)]).unwrap_err();
        assert!(error.is_missing());
        assert_eq!(error.to_string(), format!("key `{name}` of Secret `{object}` is missing"));
        assert_eq!(resolve(dir.path(), &[key(ObjectKind::Secret, object, name, true)]).unwrap().len(), 0);
    }
    let error = resolve(dir.path(), &[all(ObjectKind::ConfigMap, "gone", "", false)]).unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.to_string(), "ConfigMap `gone` is missing");
    assert!(resolve(dir.path(), &[all(ObjectKind::ConfigMap, "gone", "", true)]).unwrap().is_empty());
}

#[test]
fn a_key_cannot_lead_out_of_its_volume() {
    let dir = config();
    for (object, key_name) in
        [("db", "../../outside"), ("..", "outside"), ("db", ".."), ("db/..", "x"), ("", "x")]
    {
        let error = resolve(dir.path(), &[key(ObjectKind::Secret, object, key_name, false)]).unwrap_err();
        assert!(error.is_missing(), "{object} {key_name}");
    }
}

#[test]
fn whole_objects_give_what_can_be_a_variable() {
    let dir = config();
    fs::remove_file(dir.path().join("secrets/db/binary")).unwrap();
    let env = resolve(dir.path(), &[all(ObjectKind::Secret, "db", "DB_", false)]).unwrap();
    assert_eq!(env.keys().collect::<Vec<_>>(), ["DB_url", "DB_user"]);
}

#[test]
fn bytes_that_are_no_text_are_named_and_not_shown() {
    let dir = config();
    let error = resolve(dir.path(), &[key(ObjectKind::Secret, "db", "binary", true)]).unwrap_err();
    assert!(!error.is_missing());
    assert!(error.to_string().starts_with("key `binary` of Secret `db` is no UTF-8 text"));
}

#[test]
fn values_refer_to_earlier_variables() {
    let entries = [
        value("HOST", "db"),
        value("URL", "http://$(HOST):1/$(PORT)/$$(HOST)$"),
        value("PORT", "5"),
        value("OPEN", "$(HOST"),
    ];
    let env = resolve(Path::new("/nonexistent"), &entries).unwrap();
    assert_eq!(env["URL"], "http://db:1/$(PORT)/$(HOST)$");
    assert_eq!(env["OPEN"], "$(HOST");
}

#[test]
fn a_whole_object_cannot_set_what_is_the_platforms() {
    let dir = config();
    let map = dir.path().join("configmaps/shop");
    fs::write(map.join("FN_APP_ID"), "forged").unwrap();
    fs::write(map.join("ID"), "forged").unwrap();
    let env = resolve(dir.path(), &[all(ObjectKind::ConfigMap, "shop", "", false)]).unwrap();
    assert_eq!(env.keys().collect::<Vec<_>>(), ["GREETING", "ID"]);
    let env = resolve(dir.path(), &[all(ObjectKind::ConfigMap, "shop", "FUNCATRON_", false)]).unwrap();
    assert!(env.is_empty());
}
