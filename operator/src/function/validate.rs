//! What a Fn's spec says, read once into a type that cannot be wrong. Pure.

use std::collections::{BTreeMap, BTreeSet};

use funcatron_crds::bundle::{self, BundleError};
use funcatron_crds::{AppSpec, Digest, EnvError, FnSpec, Reason, RevisionError, RunDocument, check_env};

use crate::status::Refusal;

/// A Fn that can be run: its code packed, its document made.
#[derive(Clone, Debug)]
pub(crate) struct ValidFn {
    /// What runners are told.
    pub(crate) document: RunDocument,
    /// The packed code; absent: an image.
    pub(crate) bundle: Option<Vec<u8>>,
    /// Pods of a dedicated Fn; absent: shared.
    pub(crate) replicas: Option<i32>,
}

/// What a Fn's code is, once fetched.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Judges everything that needs no other object than the App.
pub(crate) fn validate(
    namespace: &str,
    name: &str,
    app: &AppSpec,
    spec: &FnSpec,
    files: Option<&Files>,
    runtimes: &BTreeSet<String>,
) -> Result<ValidFn, Refusal> {
    known_runtime(spec, runtimes)?;
    check_env("App", &app.env, &app.env_from).map_err(|error| invalid(&error))?;
    check_env("Fn", &spec.env, &spec.env_from).map_err(|error| invalid(&error))?;
    let bundle = files.map(bundle::pack).transpose().map_err(|error| unpackable(&error))?;
    let code = bundle.as_deref().map(Digest::of);
    let document =
        RunDocument::build(namespace, name, app, spec, code).map_err(|error| unbuildable(&error))?;
    let replicas =
        spec.image.is_some().then(|| spec.scale.as_ref().and_then(|scale| scale.replicas).unwrap_or(1));
    Ok(ValidFn { document, bundle, replicas })
}

fn known_runtime(spec: &FnSpec, runtimes: &BTreeSet<String>) -> Result<(), Refusal> {
    let Some(runtime) = &spec.runtime else { return Ok(()) };
    if runtimes.contains(runtime) {
        return Ok(());
    }
    let known = runtimes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("spec.runtime: there is no runtime `{runtime}`; known: {known}");
    Err(Refusal::accepted(Reason::RuntimeNotFound, message))
}

fn invalid(error: &EnvError) -> Refusal {
    Refusal::accepted(Reason::Invalid, error.to_string())
}

fn unbuildable(error: &RevisionError) -> Refusal {
    Refusal::accepted(Reason::Invalid, error.to_string())
}

fn unpackable(error: &BundleError) -> Refusal {
    let reason = match error {
        BundleError::PackedTooLarge(_) | BundleError::UnpackedTooLarge | BundleError::TooManyFiles => {
            Reason::SourceTooLarge
        }
        _ => Reason::SourceInvalid,
    };
    Refusal::accepted(reason, format!("spec.source: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{FnScale, FnSource};

    fn runtimes() -> BTreeSet<String> {
        ["node".to_owned(), "python".to_owned()].into()
    }

    fn python() -> FnSpec {
        FnSpec {
            app: "shop".into(),
            runtime: Some("python".into()),
            source: Some(FnSource { inline: Some("def handler(c, d): pass".into()), ..FnSource::default() }),
            ..FnSpec::default()
        }
    }

    fn files(content: &[u8]) -> Files {
        [("func.py".to_owned(), content.to_vec())].into()
    }

    fn judged(spec: &FnSpec, files: Option<&Files>) -> Result<ValidFn, Refusal> {
        validate("team-a", "hello", &AppSpec::default(), spec, files, &runtimes())
    }

    #[test]
    fn code_gives_a_revision_and_no_replicas() {
        let valid = judged(&python(), Some(&files(b"x = 1"))).unwrap();
        assert!(valid.document.revision.as_str().starts_with("hello-"));
        assert_eq!(valid.document.code, Some(Digest::of(&valid.bundle.unwrap())));
        assert_eq!(valid.replicas, None);
    }

    #[test]
    fn an_unknown_runtime_is_refused_and_the_known_ones_are_named() {
        let spec = FnSpec { runtime: Some("cobol".into()), ..python() };
        let refusal = judged(&spec, Some(&files(b""))).unwrap_err();
        assert_eq!(refusal.reason, Reason::RuntimeNotFound);
        assert!(refusal.message.contains("node, python"));
    }

    #[test]
    fn code_beyond_a_bundle_is_too_large() {
        // Bytes that no compressor makes small.
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..1_200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u8::try_from(state >> 56).unwrap()
            })
            .collect();
        let refusal = judged(&python(), Some(&files(&noise))).unwrap_err();
        assert_eq!(refusal.reason, Reason::SourceTooLarge);
    }

    #[test]
    fn an_image_has_replicas_and_no_code() {
        let spec = FnSpec {
            app: "shop".into(),
            image: Some("registry/invoice:1".into()),
            scale: Some(FnScale { replicas: Some(3) }),
            ..FnSpec::default()
        };
        let valid = judged(&spec, None).unwrap();
        assert_eq!((valid.replicas, valid.bundle), (Some(3), None));
    }

    #[test]
    fn two_of_image_and_runtime_are_refused() {
        let spec = FnSpec { image: Some("registry/x".into()), ..python() };
        assert_eq!(judged(&spec, Some(&files(b""))).unwrap_err().reason, Reason::Invalid);
    }
}
