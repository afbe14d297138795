//! Names and labels of the Kubernetes objects that the operator makes. Pure; every name is proved within its limit.

use sha2::{Digest as _, Sha256};

use crate::hex::hex;
use crate::{Digest, RevisionName};

/// Longest name of an App, Fn, Route, Trigger and Runtime; the CRDs refuse more.
pub const NAME_LENGTH_MAX: usize = 40;
/// Longest label value, host name and so Deployment name, by Kubernetes.
const LABEL_LENGTH_MAX: usize = 63;

/// Which part of the platform an object is: one of `PART_…`.
pub const LABEL_PART: &str = "funcatron.dev/part";
/// The namespace of the object that another stands for.
pub const LABEL_NAMESPACE: &str = "funcatron.dev/namespace";
/// The App it belongs to.
pub const LABEL_APP: &str = "funcatron.dev/app";
/// The Fn it belongs to.
pub const LABEL_FN: &str = "funcatron.dev/fn";
/// The revision it belongs to.
pub const LABEL_REVISION: &str = "funcatron.dev/revision";
/// The Route it stands for.
pub const LABEL_ROUTE: &str = "funcatron.dev/route";
/// The runtime that it hosts.
pub const LABEL_RUNTIME: &str = "funcatron.dev/runtime";

/// A Route's table.
pub const PART_ROUTE_TABLE: &str = "route-table";
/// An App's table.
pub const PART_APP_TABLE: &str = "app-table";
/// A bundle.
pub const PART_BUNDLE: &str = "bundle";
/// A runner's Deployment.
pub const PART_RUNNER: &str = "runner";
/// An App's bridge.
pub const PART_BRIDGE: &str = "bridge";
/// An App's broker credentials.
pub const PART_BROKER: &str = "broker";

/// Key of a table in its ConfigMap's `data`.
pub const TABLE_KEY: &str = "table.json";
/// Key of a large table in its ConfigMap's `binaryData`.
pub const TABLE_GZIP_KEY: &str = "table.json.gz";
/// From this size a table is compressed: far below a ConfigMap's 1 MiB, and JSON shrinks tenfold.
pub const TABLE_PLAIN_BYTES_MAX: usize = 100_000;
/// Key of a bundle in its ConfigMap's `binaryData`.
pub const BUNDLE_KEY: &str = "content";
/// Key of the AMQP URL in an App's broker Secret.
pub const BROKER_URL_KEY: &str = "url";

/// Hex digits of a digest in a bundle's name: 128 bits, beyond any chance of two being the same.
const BUNDLE_HEX: usize = 32;

/// ConfigMap of a Route's table, in the system namespace. No part holds a dot, so names cannot meet.
pub fn route_table(namespace: &str, route: &str) -> String {
    format!("route.{namespace}.{route}")
}

/// ConfigMap of an App's table, in the system namespace.
pub fn app_table(namespace: &str, app: &str) -> String {
    format!("app.{namespace}.{app}")
}

/// ConfigMap of a bundle, in the system namespace.
pub fn bundle(namespace: &str, app: &str, digest: &Digest) -> String {
    format!("bundle.{namespace}.{app}.{}", &digest.hex()[..BUNDLE_HEX])
}

/// Deployment of an App's shared runners for one runtime, in the App's namespace. A dash within the runtime's name
/// would let `a`+`b-c` meet `a-b`+`c`, so such names carry a hash, as do those beyond a label's length.
pub fn shared_runners(app: &str, runtime: &str) -> String {
    let plain = format!("{app}-{runtime}-runners");
    if plain.len() <= LABEL_LENGTH_MAX && !runtime.contains('-') {
        return plain;
    }
    let hash = hex(&Sha256::digest(format!("{app}/{runtime}")));
    let head: String = app.chars().take(NAME_LENGTH_MAX).collect();
    format!("{head}-{}-runners", &hash[..8])
}

/// Deployment of a dedicated Fn's revision, in the App's namespace.
pub fn dedicated_runner(revision: &RevisionName) -> String {
    revision.as_str().to_owned()
}

/// Deployment of an App's bridge, in the App's namespace.
pub fn bridge(app: &str) -> String {
    format!("{app}-funcatron-bridge")
}

/// Secret with an App's broker URL, in the App's namespace.
pub fn broker_secret(app: &str) -> String {
    format!("{app}-funcatron-broker")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(length: usize) -> String {
        "a".repeat(length)
    }

    #[test]
    fn longest_parts_stay_within_kubernetes_limits() {
        let (ns, name) = (longest(63), longest(NAME_LENGTH_MAX));
        let digest = Digest::of(b"");
        for object in [route_table(&ns, &name), app_table(&ns, &name), bundle(&ns, &name, &digest)] {
            assert!(object.len() <= 253, "{object}");
        }
        for label in [
            shared_runners(&name, &name),
            broker_secret(&name),
            bridge(&name),
            dedicated_runner(&RevisionName::new(&name, "0123abcd").unwrap()),
        ] {
            assert!(label.len() <= LABEL_LENGTH_MAX, "{label}");
        }
    }

    #[test]
    fn names_are_as_documented() {
        let digest = Digest::of(b"code");
        assert_eq!(route_table("team-a", "site"), "route.team-a.site");
        assert_eq!(app_table("team-a", "shop"), "app.team-a.shop");
        assert_eq!(bundle("team-a", "shop", &digest), format!("bundle.team-a.shop.{}", &digest.hex()[..32]));
        assert_eq!(shared_runners("shop", "python"), "shop-python-runners");
        assert_eq!(broker_secret("shop"), "shop-funcatron-broker");
        assert_eq!(bridge("shop"), "shop-funcatron-bridge");
    }

    #[test]
    fn two_apps_never_share_a_runner_deployment() {
        assert_ne!(shared_runners("a", "b-c"), shared_runners("a-b", "c"));
        let (one, other) = (longest(39) + "x", longest(39) + "y");
        let runtime = longest(40);
        assert_ne!(shared_runners(&one, &runtime), shared_runners(&other, &runtime));
        assert_ne!(shared_runners("a", &longest(60)), shared_runners("a", &longest(61)));
    }
}
