//! Fns: code packed, revision named, environment found.

use std::collections::BTreeMap;

use funcatron_crds::{Digest, FnSource, FnSpec, Function, RunDocument, bundle, check_env};
use funcatron_operator::callbacks::word;
use funcatron_operator::policies;
use funcatron_routing::app_table::{AsyncPolicy, RevisionEntry};

use super::super::manifests::{Key, Located, Manifests};
use super::environment::{config_map_data, values};
use super::{Broken, FnPlan, Plan, app_missing};

/// The runtimes that this build hosts.
pub(crate) const RUNTIMES: [&str; 2] = ["node", "python"];

type Folders = BTreeMap<Key, BTreeMap<String, Vec<u8>>>;

/// A field's JSON pointer, and what is wrong there.
type Fault = (&'static str, String);

/// Plans every Fn; one that cannot run is a problem and no more.
pub(super) fn plan(plan: &mut Plan, manifests: &Manifests, folders: &Folders) {
    for (key, function) in &manifests.fns {
        let spec = &function.object.spec;
        if let Some(image) = &spec.image {
            let line = function.origin.problem("/spec/image", "").line;
            plan.notes.push(format!(
                "{}:{line}: Fn {} runs the image {image}, which needs a cluster; it is not served here",
                function.origin.file.display(),
                key.name
            ));
            continue;
        }
        if let Err((pointer, message)) = plan_fn(plan, manifests, folders, key, function) {
            plan.problems.push(function.origin.problem(pointer, message));
            plan.broken.insert(Broken::Fn(key.clone()));
        }
    }
}

fn plan_fn(
    plan: &mut Plan,
    manifests: &Manifests,
    folders: &Folders,
    key: &Key,
    function: &Located<Function>,
) -> Result<(), Fault> {
    let spec = &function.object.spec;
    let app_key = Key::new(&key.namespace, &spec.app);
    let Some(app) = manifests.apps.get(&app_key) else { return Err(("/spec/app", app_missing(&spec.app))) };
    check_env("App", &app.object.spec.env, &app.object.spec.env_from)
        .and_then(|()| check_env("Fn", &spec.env, &spec.env_from))
        .map_err(|error| ("/spec/env", error.to_string()))?;
    let runtime = known_runtime(spec)?;
    let code = bundle::pack(&files(manifests, folders, key, spec.source.as_ref(), &runtime)?)
        .map_err(|error| ("/spec/source", error.to_string()))?;
    let digest = Digest::of(&code);
    let run = RunDocument::build(&key.namespace, &key.name, &app.object.spec, spec, Some(digest.clone()))
        .map_err(|error| ("/spec", error.to_string()))?;
    let config = values(manifests, &key.namespace, &run.env).map_err(|message| ("/spec/env", message))?;
    let Some(app_plan) = plan.apps.get_mut(&app_key) else { return Ok(()) };
    let revision = RevisionEntry {
        name: run.revision.clone(),
        runtime: Some(runtime),
        run: run.digest(),
        code: Some(digest),
        concurrency: run.concurrency,
        // Queues cost nothing here.
        durable: true,
    };
    let (timeout_ms, detached) = (run.timeout_ms, AsyncPolicy::of(spec.detached.as_ref()));
    let policies = policies::of_fn(&app_plan.names, &key.name, spec.detached.as_ref())
        .map_err(|error| ("/metadata/name", error.to_string()))?;
    let word = word(&key.namespace, &key.name, spec, String::new());
    let bundles = [run.to_bytes().into(), code.into()];
    app_plan.config.extend(config);
    let planned = FnPlan { revision, timeout_ms, detached, policies, word, bundles };
    app_plan.fns.insert(key.name.clone(), planned);
    Ok(())
}

fn known_runtime(spec: &FnSpec) -> Result<String, Fault> {
    let runtime = spec.runtime.clone().unwrap_or_default();
    if RUNTIMES.contains(&runtime.as_str()) {
        return Ok(runtime);
    }
    let known = RUNTIMES.join(", ");
    Err(("/spec/runtime", format!("{runtime} is not known; the runtimes here are {known}")))
}

fn files(
    manifests: &Manifests,
    folders: &Folders,
    key: &Key,
    source: Option<&FnSource>,
    runtime: &str,
) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let Some(FnSource { inline, files, path }) = source else {
        return Err(("/spec/source", "is missing; runtime needs it".to_owned()));
    };
    match (inline, files, path) {
        (Some(text), None, None) => {
            let name = bundle::inline_file_name(runtime)
                .ok_or_else(|| ("/spec/source/inline", format!("{runtime} takes no inline source")))?;
            Ok(BTreeMap::from([(name.to_owned(), text.clone().into_bytes())]))
        }
        (None, Some(files), None) => {
            let name = &files.config_map_ref.name;
            let map = manifests.config_maps.get(&Key::new(&key.namespace, name)).ok_or_else(|| {
                let message = format!("ConfigMap {name} is not in this folder; add its manifest");
                ("/spec/source/files/configMapRef/name", message)
            })?;
            Ok(config_map_data(&map.object))
        }
        (None, None, Some(path)) => folders
            .get(key)
            .cloned()
            .ok_or_else(|| ("/spec/source/path", format!("{path} is no folder that can be read"))),
        _ => Err(("/spec/source", "set exactly one of `inline`, `files` and `path`".to_owned())),
    }
}
