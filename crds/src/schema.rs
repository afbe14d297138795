//! What the API server checks of a field: forms and bounds that several kinds share. Owns schemas alone; the same
//! bounds stand as constants where the operator must keep to them in a status.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A DNS label of at most 40 characters: the name of an App, Fn, Route, Trigger or Runtime.
pub(crate) const NAME: &str = "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$";
/// A DNS subdomain: the name of a ConfigMap or Secret.
pub(crate) const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a ConfigMap or Secret; like Kubernetes, not `.`, `..` or anything beginning with `..`.
pub(crate) const OBJECT_KEY: &str = "^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";
/// The name of a variable, as Kubernetes has it.
pub(crate) const ENV_NAME: &str = "^[-._a-zA-Z][-._a-zA-Z0-9]*$";
/// A path of RFC 3986's characters, without empty segments (it may end with `/`) and without `.` or `..`, plain or
/// escaped: clients and proxies resolve those differently.
pub(crate) const PATH_RULE: &str = r#"self.matches("^/([-A-Za-z0-9._~!$&'()*+,;=:@%]+/)*[-A-Za-z0-9._~!$&'()*+,;=:@%]*$") && !self.matches("/([.]|%2[eE]){1,2}(/|$)")"#;
/// What any other path is told.
pub(crate) const PATH_MESSAGE: &str = "a path begins with `/` and has RFC 3986's characters, without query, fragment and the segments `//`, `/./` and `/../`";
/// Names of all kinds, at the object's root. The API server has checked the characters.
pub(crate) const NAME_RULE: &str = "size(self.metadata.name) <= 40 && !self.metadata.name.contains('.')";
/// What a name beyond that is told.
pub(crate) const NAME_MESSAGE: &str = "metadata.name: a DNS label of at most 40 characters (it becomes part of names that have 63): shorten it, without dots";
/// An App reference that changed.
pub(crate) const APP_MESSAGE: &str =
    "spec.app: cannot change; delete the object and create it again in the other App";
/// An environment name of ours.
pub(crate) const RESERVED_RULE: &str = "!self.startsWith('FN_') && !self.startsWith('FUNCATRON_')";
/// What such a name is told.
pub(crate) const RESERVED_MESSAGE: &str =
    "names with FN_ and FUNCATRON_ are the platform's own: choose another name";

/// A callback's URL. What its host resolves to is judged when it is asked.
pub(crate) const CALLBACK_URL_RULE: &str =
    r"self.matches('^https?://([^/?#@ \\[\\]]+|\\[[0-9a-fA-F:.]+\\](:[0-9]{1,5})?)([/?][^# ]*)?$')";
/// What any other URL is told.
pub(crate) const CALLBACK_URL_MESSAGE: &str =
    "url: an absolute URL such as https://example.com/hook, without user and fragment";

/// Conditions in one status: the types there are, and room for others'.
const CONDITIONS_MAX: usize = 16;
/// URLs in a status; one for each hostname a Route may have.
pub const URLS_MAX: usize = 16;
/// Conflicts named in a Route's status; further ones are counted in the condition's message.
pub const CONFLICTS_MAX: usize = 32;
/// Longest text of a conflict, in characters.
pub const CONFLICT_LENGTH_MAX: usize = 1024;
/// Hostnames of an App or Route, as of Gateway API's HTTPRoute.
pub const HOSTNAMES_MAX: usize = 16;

const HOSTNAME_RULE: &str = "self.matches('^([*][.])?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$') && !self.matches('^[0-9.]+$')";
const HOSTNAME_MESSAGE: &str = "a hostname is a lower-case DNS name (RFC 1123), neither an IP address nor `*` alone, without port; a wildcard stands first (`*.example.com`)";

/// Hostnames by Gateway API's rules.
pub(crate) fn hostnames(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": HOSTNAMES_MAX,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "x-kubernetes-validations": [{"rule": HOSTNAME_RULE, "message": HOSTNAME_MESSAGE}],
        },
    })
}

/// `metav1.Condition`, one for each type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": CONDITIONS_MAX,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "maxLength": 64,
                    "description": "When `status` last changed.",
                },
                "message": {
                    "type": "string",
                    "maxLength": crate::condition::MESSAGE_BYTES_MAX,
                    "description": "What there is to say, for people.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The generation that this condition speaks of.",
                },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "Why, in one word for programs.",
                },
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds.",
                },
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^[A-Za-z]([-A-Za-z0-9_./]*[A-Za-z0-9])?$",
                    "description": "What it speaks of: Ready, Accepted, ResolvedRefs, Available, Progressing, AsyncReady.",
                },
            },
        },
    })
}

/// An amount, as Kubernetes writes it, but never negative.
pub(crate) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 24,
        "pattern": "^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[mkMGTPE]|[eE][+]?[0-9]+)?$",
    })
}

/// `metav1.Time`: RFC 3339.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 64})
}

/// URLs of a status.
pub(crate) fn urls(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": URLS_MAX,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 2048},
    })
}

/// Conflicts of a status.
pub(crate) fn conflicts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": CONFLICTS_MAX,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": CONFLICT_LENGTH_MAX},
    })
}
