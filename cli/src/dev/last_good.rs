//! What a broken change does not take away: objects as they were when they were last good. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use funcatron_broker::names::Installation;
use funcatron_crds::{App, Function, Route, Trigger};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::folders::Folders;
use super::manifests::{Key, Kind, Lost, Manifests};
use super::plan::{Broken, Plan, compile};

/// Plans what the folder says now. Where it cannot be read, or cannot run, the object's earlier manifest is planned
/// in its place; the problems are those of the folder as it is.
pub(crate) fn plan(
    installation: &Installation,
    manifests: &mut Manifests,
    earlier: &Manifests,
    folders: &Folders,
) -> Plan {
    fill_in(manifests, earlier);
    let plan = compile(installation, manifests, folders);
    if !restore(manifests, &plan.broken, earlier) {
        return plan;
    }
    Plan { problems: plan.problems, ..compile(installation, manifests, folders) }
}

fn fill_in(manifests: &mut Manifests, earlier: &Manifests) {
    let lost = std::mem::take(&mut manifests.lost);
    keep::<App>(manifests, earlier, &lost);
    keep::<Function>(manifests, earlier, &lost);
    keep::<Route>(manifests, earlier, &lost);
    keep::<Trigger>(manifests, earlier, &lost);
    keep::<ConfigMap>(manifests, earlier, &lost);
    keep::<Secret>(manifests, earlier, &lost);
}

fn keep<T: Kind>(manifests: &mut Manifests, earlier: &Manifests, lost: &[Lost]) {
    for (key, located) in T::all(earlier) {
        if lost.iter().any(|lost| lost.covers(T::NAME, key, &located.origin.file)) {
            T::all_mut(manifests).entry(key.clone()).or_insert_with(|| located.clone());
        }
    }
}

impl Lost {
    fn covers(&self, kind: &str, key: &Key, file: &Path) -> bool {
        match self {
            Self::Object(lost, named) => *lost == kind && named == key,
            Self::File(lost) => lost == file,
        }
    }
}

/// Puts the earlier manifest of each broken object in its place; whether there was any.
fn restore(manifests: &mut Manifests, broken: &BTreeSet<Broken>, earlier: &Manifests) -> bool {
    let mut any = false;
    for broken in broken {
        any |= match broken {
            Broken::Fn(key) => put_back::<Function>(manifests, earlier, key),
            Broken::Route(key) => put_back::<Route>(manifests, earlier, key),
            Broken::Trigger(key) => put_back::<Trigger>(manifests, earlier, key),
        };
    }
    any
}

fn put_back<T: Kind>(manifests: &mut Manifests, earlier: &Manifests, key: &Key) -> bool {
    let Some(located) = T::all(earlier).get(key) else { return false };
    T::all_mut(manifests).insert(key.clone(), located.clone());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::manifests::{self, Schemas};

    const APP: &str =
        "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n---\n";
    const FN: &str = "apiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {name: a}\nspec:\n  app: shop\n  \
                      runtime: python\n  source: {inline: 'def handler(ctx, data): pass'}\n---\n";
    const TRIGGER: &str = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: t}\nspec: {app: \
                           shop, fn: a, http: {source: /hook}}\n";

    fn read(text: &str) -> Manifests {
        let folder = tempfile::tempdir().unwrap();
        // A name of its own: `lost` knows files by it.
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, text).unwrap();
        let mut manifests = manifests::read(folder.path(), &Schemas::compile().unwrap()).unwrap();
        let plain = |file: &mut std::path::PathBuf| *file = "a.yaml".into();
        manifests.fns.values_mut().for_each(|located| plain(&mut located.origin.file));
        manifests.apps.values_mut().for_each(|located| plain(&mut located.origin.file));
        manifests.triggers.values_mut().for_each(|located| plain(&mut located.origin.file));
        for lost in &mut manifests.lost {
            if let Lost::File(file) = lost {
                plain(file);
            }
        }
        manifests
    }

    /// What is planned after one text was replaced by the other.
    fn change(before: &str, after: &str) -> Plan {
        let mut now = read(after);
        plan(&Installation::parse("dev").unwrap(), &mut now, &read(before), &Folders::new())
    }

    fn shop() -> Key {
        Key::new("default", "shop")
    }

    #[test]
    fn a_file_that_is_no_yaml_takes_nothing_away() {
        let plan = change(&format!("{APP}{FN}{TRIGGER}"), "kind: [App\nb: }");
        assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
        assert!(plan.apps[&shop()].fns.contains_key("a"));
        assert_eq!(plan.apps[&shop()].triggers.len(), 1);
    }

    #[test]
    fn an_app_that_breaks_its_schema_goes_on_as_it_was() {
        let broken = APP.replace("spec: {}", "spec: {hostname: x}");
        let plan = change(&format!("{APP}{FN}"), &format!("{broken}{FN}"));
        assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
        assert!(plan.apps[&shop()].fns.contains_key("a"));
    }

    #[test]
    fn a_misspelt_kind_keeps_what_its_file_held() {
        let plan = change(&format!("{APP}{FN}"), &format!("{APP}{}", FN.replace("kind: Fn", "kind: Fun")));
        assert!(plan.apps[&shop()].fns.contains_key("a"));
    }

    #[test]
    fn a_fn_that_cannot_run_any_more_runs_as_it_did() {
        let broken = FN.replace("runtime: python", "runtime: cobol");
        let earlier = change("", &format!("{APP}{FN}")).apps[&shop()].fns["a"].revision.clone();
        let plan = change(&format!("{APP}{FN}"), &format!("{APP}{broken}"));
        assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
        assert_eq!(plan.apps[&shop()].fns["a"].revision, earlier);
    }

    #[test]
    fn a_trigger_that_names_no_fn_any_more_goes_on_as_it_was() {
        let broken = TRIGGER.replace("fn: a", "fn: b");
        let plan = change(&format!("{APP}{FN}{TRIGGER}"), &format!("{APP}{FN}{broken}"));
        assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
        assert_eq!(plan.apps[&shop()].triggers.len(), 1);
    }

    #[test]
    fn what_is_deleted_goes() {
        let plan = change(&format!("{APP}{FN}{TRIGGER}"), APP);
        assert_eq!(plan.problems, vec![]);
        assert!(plan.apps[&shop()].fns.is_empty());
    }
}
